# SPDX-License-Identifier: Apache-2.0
"""gRPC: converts messages to domain types and back."""
