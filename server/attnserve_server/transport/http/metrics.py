# SPDX-License-Identifier: Apache-2.0
"""``/metrics``: all metrics, rendered on a thread, because with several models rendering would stall streams."""

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
    """The endpoint of a registry. One rendering runs at a time; waiting scrapes with equal headers share the next one.

    Args:
        exposition: renders the text.
    """

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._turn = asyncio.Lock()
        self._waiting: dict[tuple[str, bool], asyncio.Task[Page]] = {}
        """Renderings that have not started, by Accept header and whether to compress."""

    async def get(self, request: Request) -> Response:
        """Answers with values read after the request arrived."""
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
    """Returns whether a body may be compressed, by RFC 9110, section 12.5.3.

    ``gzip`` or its alias ``x-gzip`` takes precedence over ``*``. An invalid weight counts as 0. If ``identity`` has a higher
    weight, the body is not compressed.

    Args:
        accept_encoding: value of the request's header; empty if absent.
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
