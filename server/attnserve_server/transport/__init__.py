# SPDX-License-Identifier: Apache-2.0
"""Transports: gRPC services with error statuses, health and reflection (``rpc``), and HTTP endpoints (``http``)."""
