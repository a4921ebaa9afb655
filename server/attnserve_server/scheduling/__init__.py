# SPDX-License-Identifier: Apache-2.0
"""Scheduling policy: what runs in the next step. It handles requests, slots and the clock; no tensors, no RPC."""
