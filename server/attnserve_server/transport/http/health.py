# SPDX-License-Identifier: Apache-2.0
"""``/healthz``: 200 if the server is serving, else 503; the body is one line with the reason."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

Health = Callable[[], tuple[bool, str]]
"""Returns whether the server is serving, and a short reason if not. Called on the event loop."""


class HealthPage:
    """The endpoint of a health check.

    Args:
        health: the check.
    """

    def __init__(self, health: Health) -> None:
        self._health = health

    async def get(self, request: Request) -> Response:
        """Answers with the current state."""
        del request
        is_serving, text = self._health()
        return PlainTextResponse(f"{text}\n", 200 if is_serving else 503)
