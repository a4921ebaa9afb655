# SPDX-License-Identifier: Apache-2.0
"""A request on the front's side: where its answer arrives, and how it is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from attnserve_server.errors import ServiceError
from attnserve_server.request import RequestFinished, SequenceRequest

if TYPE_CHECKING:
    from attnserve_server.engine.models import ServedModel


class Ticket:
    """Handed out by ``Front.submit``; belongs to the event loop."""

    def __init__(
        self, model: ServedModel, request: SequenceRequest, received_at: float, on_cancel: Callable[[Ticket, str], None]
    ) -> None:
        self.model, self.request, self.received_at = model, request, received_at
        self.worker: str | None = None
        self.num_attempts = 0
        self.delivered_at: list[float] = []
        self._on_cancel = on_cancel
        self._answer: asyncio.Future[RequestFinished] = asyncio.get_running_loop().create_future()
        self._answer.add_done_callback(_retrieve)
        self._deltas: asyncio.Queue[list[int] | None] = asyncio.Queue()

    @property
    def is_done(self) -> bool:
        """Answered, failed or cancelled."""
        return self._answer.done()

    async def result(self) -> RequestFinished:
        """Waits for the answer; raises the ServiceError that it ended with."""
        return await asyncio.shield(self._answer)

    async def deltas(self) -> AsyncIterator[list[int]]:
        """The tokens of a streamed request as they come; ends when it is finished or has failed."""
        while (tokens := await self._deltas.get()) is not None:
            yield tokens

    def cancel(self, reason: str) -> None:
        """Frees the request's slots within one step; idempotent."""
        if not self.is_done:
            self._on_cancel(self, reason)

    def deliver(self, tokens: list[int], now: float) -> None:
        """Tokens have come from the worker."""
        self.delivered_at.append(now)
        self._deltas.put_nowait(tokens)

    def finish(self, answer: RequestFinished) -> None:
        """The answer has come."""
        if not self.is_done:
            self._answer.set_result(answer)
            self._deltas.put_nowait(None)

    def fail(self, error: ServiceError) -> None:
        """No answer will come."""
        if not self.is_done:
            self._answer.set_exception(error)
            self._deltas.put_nowait(None)


def _retrieve(future: asyncio.Future[RequestFinished]) -> None:
    """Marks an error as seen: a client that left does not ask for it."""
    if not future.cancelled():
        future.exception()
