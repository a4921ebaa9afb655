# SPDX-License-Identifier: Apache-2.0
"""gRPC: turns messages into domain types and back."""
