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
        form = _header(request, "Accept"), accepts_gzip(_header(request, "Accept-Encoding"))
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
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if is_compressed:
            body = gzip.compress(body, _GZIP_LEVEL)
            headers["Content-Encoding"] = "gzip"
        return body, headers


def accepts_gzip(accept_encoding: str) -> bool:
    """Says whether a body may be compressed, by RFC 9110, section 12.5.3.

    ``gzip`` or its alias ``x-gzip`` decides before ``*``. A weight that is no number counts as 0. Where ``identity`` is named
    with a higher weight, the body stays as it is.

    Args:
        accept_encoding: the value of the request's header; empty where there is none.
    """
    weights: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        coding, *parameters = (part.strip() for part in item.split(";"))
        weights[coding] = _weight(parameters)
    weight = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return weight > 0 and weight >= weights.get("identity", 0.0)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _header(request: Request, header: str) -> str:
    return ",".join(request.headers.getlist(header))
