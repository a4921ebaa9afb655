# SPDX-License-Identifier: Apache-2.0
"""The path of a request that all protocols share: resolve the model, prepare and submit the request, render the answer.

It uses domain types only: a protocol converts its messages to a task's request and the task's answer to messages, nothing else.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from attnserve_server.dataplane.accounts import RequestRecorder
from attnserve_server.dataplane.call import Call, Submit, Ticket
from attnserve_server.dataplane.offload import Preparing
from attnserve_server.engine.front.draining import Draining
from attnserve_server.errors import InvalidRequest
from attnserve_server.metrics.timings import Timings
from attnserve_server.request import Done, Terms
from attnserve_server.tasks.interface import Limits, Model, Prepared
from attnserve_server.tasks.joining import whole
from attnserve_server.tasks.options import check_priority
from attnserve_server.tasks.registry import TaskSpec

T = TypeVar("T")

_POLL_S = 0.005


class Models(Protocol):
    """The part of the front that the data plane uses."""

    @property
    def draining(self) -> Draining:
        """Which requests are refused because the server stops."""
        ...

    def models(self) -> Sequence[Any]:
        """Returns all models and versions, in any order."""
        ...

    def resolve(self, model: str, version: str, task: int = ...) -> Any:
        """Returns a model; an empty id selects the task's default or only model, an empty version the newest.

        Raises:
            ModelNotFound: there is no such model.
        """
        ...


class Sharing(Protocol):
    """The cache and the jobs in progress, in place of the front's ``submit`` (``engine/front/sharing.py``)."""

    def key(self, model: Any, payload: Any) -> bytes:
        """Returns the key of a payload's answer. Runs on any thread."""
        ...

    def submit(self, model: Any, payload: Any, terms: Terms, key: bytes) -> Ticket:
        """As ``Front.submit``."""
        ...


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A request for the data plane.

    Attributes:
        what: the task's own request type.
        model: id; empty for the default.
        version: empty for the newest.
        priority: from MIN_PRIORITY to MAX_PRIORITY.
        is_streamed: whether parts of the answer are sent as they become certain.
    """

    what: Any
    model: str = ""
    version: str = ""
    priority: int = 0
    is_streamed: bool = False


class Pending:
    """A submitted request."""

    __slots__ = ("_call", "_prepared", "_spec", "_threads", "_tickets", "model")

    def __init__(
        self,
        call: Call,
        spec: TaskSpec,
        model: Model,
        prepared: Prepared,
        tickets: Sequence[Ticket],
        threads: Preparing | None = None,
    ) -> None:
        self._call, self._spec, self.model, self._prepared, self._tickets = call, spec, model, prepared, tickets
        self._threads = threads

    async def answer(self, to_message: Callable[[Any, Timings], T]) -> T:
        """Waits for the whole answer, and returns it as a message; both are made on a thread if the task says so.

        Raises:
            ServiceError: the request failed.
        """
        if self._threads is None:
            if len(self._tickets) == 1:
                return to_message(*self._rendered([await self._tickets[0].result()]))
            return to_message(*self._rendered(await _results(self._tickets)))
        with self._threads.expecting():
            answers = await _results(self._tickets)
            self._call.is_being_made = True
            return await self._threads.finish(lambda: to_message(*self._rendered(answers)))

    async def stream(self, to_message: Callable[[Any], T]) -> AsyncGenerator[T, None]:
        """Yields the parts of the answer as they become certain, then the result of :meth:`answer`; all as messages.

        Raises:
            ServiceError: the request failed.
        """
        results: asyncio.Future[list[Done[Any]]] | None = None
        if len(self._tickets) > 1:
            results = asyncio.ensure_future(_results(self._tickets))
            results.add_done_callback(functools.partial(_fail_together, self._call))
        try:
            stream, answers = self._spec.task.stream(self._prepared), list[Done[Any]]()
            for index, ticket in enumerate(self._tickets):
                stream.begin(index)
                async for part in ticket.deltas():
                    delta = stream.push(part)
                    if delta is not None:
                        yield to_message(delta)
                answers.append(await _own_or_first_error(ticket, results))
                delta = stream.finish(answers[-1])
                if delta is not None:
                    yield to_message(delta)
            yield to_message(self._rendered(answers))
        finally:
            if results is not None:
                results.cancel()

    def _rendered(self, answers: Sequence[Done[Any]]) -> tuple[Any, Timings]:
        call, rendered = self._call, self._spec.task.render(self._prepared, answers)
        timings = call.timings = Timings.of(call.received_at, call.queued_at, whole(answers))
        call.num_generated = sum(answer.outcome.num_generated for answer in answers)
        return rendered, timings


class DataPlane:
    """Connects all protocols to the engine.

    Args:
        front: resolves models and takes requests.
        recorder: observes the times of preparation.
        limits: of a request's content.
        sharing: replaces ``front.submit``.
    """

    def __init__(self, front: Any, recorder: RequestRecorder, limits: Limits, sharing: Sharing | None = None) -> None:
        self._front: Models = front
        self._front_submit: Submit = front.submit
        self.recorder, self._limits, self._sharing = recorder, limits, sharing
        self._preparing: dict[str, Preparing] = {}
        self.num_preparing = 0
        """Requests that are being prepared, or wait for a thread: a shutdown waits for them, and refuses those that come later."""

    def models(self) -> Sequence[Model]:
        """Returns all models and versions, in any order."""
        return self._front.models()

    def resolve(self, model: str, version: str, task: int) -> Model:
        """Returns the model of an id, or the default of a task; see :meth:`ModelRegistry.resolve`.

        Raises:
            ModelNotFound: there is no such model.
        """
        found: Model = self._front.resolve(model, version, task)
        return found

    async def submit(self, call: Call, spec: TaskSpec, asked: Asked) -> Pending:
        """Checks, prepares and submits a request.

        Raises:
            ServiceError: it cannot be served.
        """
        model = call.model = self.resolve(asked.model, asked.version, spec.number)
        call.spec = spec
        if model.manifest.task != spec.number:
            raise InvalidRequest(f"the model {model.id} does not {spec.does}", field="model")
        task, limits, what = spec.task, self._limits, asked.what
        checked = task.check(what, model, limits)
        terms = call.terms(is_streamed=asked.is_streamed, priority=check_priority(asked.priority))
        self._front.draining.check(is_prepared=False)
        effort = task.effort(what)
        preparing = self._of(spec)
        prepare = functools.partial(self._prepared, functools.partial(task.prepare, what, checked, model, limits), model)
        self.num_preparing += 1
        try:
            prepared, submits = prepare() if preparing.is_inline(effort) else await preparing.run(effort, prepare)
            tickets = [call.submit(submit, model, each, terms) for submit, each in zip(submits, prepared.payloads, strict=True)]
        finally:
            self.num_preparing -= 1
        if spec.reads_image:
            self.recorder.image_prepared(model.id, model.version, tickets[0].received_at - call.received_at)
        return Pending(call, spec, model, prepared, tickets, preparing if spec.renders_on_threads else None)

    def _prepared(self, prepare: Callable[[], Prepared], model: Model) -> tuple[Prepared, list[Submit]]:
        """Returns the prepared request, and the function that submits each of its payloads. Runs on any thread."""
        prepared, sharing = prepare(), self._sharing
        if sharing is None:
            return prepared, [self._front_submit] * len(prepared.payloads)
        return prepared, [functools.partial(sharing.submit, key=sharing.key(model, payload)) for payload in prepared.payloads]

    @property
    def num_expected(self) -> int:
        """Number of answers that are expected from the front, or being made on threads."""
        return sum(each.num_expected for each in self._preparing.values())

    async def drain(self, timeout_s: float) -> None:
        """Waits until all answers that the front has given are made, for ``timeout_s`` at most."""
        until = time.monotonic() + timeout_s
        while self.num_expected and time.monotonic() < until:
            await asyncio.sleep(_POLL_S)

    def close(self) -> None:
        """Ends requests that are being prepared with ShuttingDown, and lets the threads end."""
        for preparing in self._preparing.values():
            preparing.close()

    def _of(self, spec: TaskSpec) -> Preparing:
        name = spec.preparation.name
        return self._preparing.get(name) or self._preparing.setdefault(
            name, Preparing(name, spec.preparation.what, spec.preparation.stop)
        )


async def _results(tickets: Sequence[Ticket]) -> list[Done[Any]]:
    """Returns all answers; raises the first error as soon as it occurs."""
    return await asyncio.gather(*(ticket.result() for ticket in tickets))


def _fail_together(call: Call, results: asyncio.Future[list[Done[Any]]]) -> None:
    """Cancels all parts of a request when one of them has failed."""
    if not results.cancelled() and results.exception() is not None:
        call.cancel("error")


async def _own_or_first_error(ticket: Ticket, results: asyncio.Future[list[Done[Any]]] | None) -> Done[Any]:
    """Returns a ticket's answer; raises the error that made all parts fail rather than the cancellation that followed it."""
    if results is not None and results.done():
        results.result()
    return await ticket.result()
