# SPDX-License-Identifier: Apache-2.0
"""``/healthz``: 200 where the server serves, 503 where it does not, and why not, in one line."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

Health = Callable[[], tuple[bool, str]]
"""Says whether the server serves, and why not, in a few words. Called on the event loop."""


class HealthPage:
    """Shows a health check.

    Args:
        health: the check.
    """

    def __init__(self, health: Health) -> None:
        self._health = health

    async def get(self, request: Request) -> Response:
        """Answers with the state now."""
        del request
        is_serving, text = self._health()
        return PlainTextResponse(f"{text}\n", 200 if is_serving else 503)
