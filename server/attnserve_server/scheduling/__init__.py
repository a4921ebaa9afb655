# SPDX-License-Identifier: Apache-2.0
"""Policy: what runs in the next step. Knows requests, slots and the clock; no tensors, no RPC."""
