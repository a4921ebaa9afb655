# SPDX-License-Identifier: Apache-2.0
"""How both clients interpret a health check (``grpc.health.v1``)."""

from __future__ import annotations

from attnserve_client.errors import AttnserveError, DeadlineExceeded, ServerUnreachable, TlsFailed

POLL_S = 0.1
CHECK_TIMEOUT_S = 5.0

_DOWN_CODES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "NOT_FOUND"})


def means_down(error: AttnserveError) -> bool:
    """Tells whether a failed check means "not healthy"; any other error (no permission, no TLS) should be raised."""
    return (isinstance(error, ServerUnreachable) or error.code in _DOWN_CODES) and not isinstance(error, TlsFailed)


def not_ready(address: str, timeout: float) -> DeadlineExceeded:
    """Returns the error for a server that was not ready in time."""
    return DeadlineExceeded(f"the server at {address} was not ready within {timeout:g} s")
