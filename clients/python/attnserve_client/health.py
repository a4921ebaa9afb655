# SPDX-License-Identifier: Apache-2.0
"""What both clients make of a health check (``grpc.health.v1``)."""

from __future__ import annotations

from attnserve_client.errors import AttnserveError, DeadlineExceeded

POLL_S = 0.1
CHECK_TIMEOUT_S = 5.0

_DOWN_CODES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "NOT_FOUND"})


def means_down(error: AttnserveError) -> bool:
    """Tells whether a failed check just says "not healthy"; anything else (no such method, no permission) is worth raising."""
    return error.code in _DOWN_CODES


def not_ready(address: str, timeout: float) -> DeadlineExceeded:
    """Returns the error of having waited in vain."""
    return DeadlineExceeded(f"the server at {address} was not ready within {timeout:g} s")
