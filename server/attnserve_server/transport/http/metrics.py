# SPDX-License-Identifier: Apache-2.0
"""``/metrics``: the text of all metrics, rendered on a thread, for with several models it takes longer than a stream may wait."""

from __future__ import annotations

import asyncio
import gzip
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request
from starlette.responses import Response

from attnserve_server.metrics.exposition import Exposition

_GZIP_LEVEL = 1

Page = tuple[bytes, dict[str, str]]
"""Body and headers."""


class MetricsPage:
    """Shows a registry. One rendering runs at a time; all scrapes of one form that wait for the next one share it.

    Args:
        exposition: makes the text.
    """

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._turn = asyncio.Lock()
        self._waiting: dict[tuple[str, bool], asyncio.Task[Page]] = {}
        """Renderings that have not begun, by Accept header and whether to compress."""

    async def get(self, request: Request) -> Response:
        """Answers with the values of a moment after the request came."""
        form = _joined(request, "Accept"), "gzip" in _joined(request, "Accept-Encoding")
        page = self._waiting.get(form)
        if page is None:
            page = self._waiting[form] = asyncio.create_task(self._next_page(form))
        body, headers = await asyncio.shield(page)
        return Response(body, headers=headers)

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _next_page(self, form: tuple[str, bool]) -> Page:
        async with self._turn:
            del self._waiting[form]
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._render, *form)

    def _render(self, accept: str, is_compressed: bool) -> Page:
        body, content_type = self._exposition.render(accept)
        headers = {"Content-Type": content_type}
        if is_compressed:
            body = gzip.compress(body, _GZIP_LEVEL)
            headers["Content-Encoding"] = "gzip"
        return body, headers


def _joined(request: Request, header: str) -> str:
    return ",".join(request.headers.getlist(header))
