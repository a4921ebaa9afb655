# SPDX-License-Identifier: Apache-2.0
"""The outer ring: gRPC services, their errors on the wire, health and reflection (``rpc``), and the HTTP pages (``http``)."""
