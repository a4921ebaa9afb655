# SPDX-License-Identifier: Apache-2.0
"""Who joins the running batch and when: policy alone, over ids and counts. Knows no tensors, no graphs, no sockets.

Requests are admitted first come first served. A group is worth an encoder run when it is large against what is decoding, or
when its oldest member could have been admitted for some time: so a lone request waits at most ``admit_wait_s``, and a full
house encodes several at once.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Knobs of admission.

    Args:
        num_slots: rows that decode at once.
        admit_wait_s: how long an admissible request may wait for company while others decode.
        busy_share: a group is large enough at one request plus this share of the live rows.
        max_encode_tokens: source tokens that one encoder run may take while others decode, so that they are not starved.
        max_encoded: sources that it may take at all, 0 for any number.
    """

    num_slots: int
    admit_wait_s: float = 0.002
    busy_share: float = 0.125
    max_encode_tokens: int = 1024
    max_encoded: int = 0


class Status(enum.IntEnum):
    """How far a request has come in an engine."""

    WAITING = 0
    RUNNING = 1
    DONE = 2


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in an engine, from the queue to its end. What an engine knows of it besides is for subclasses."""

    request_id: int
    num_rows: int
    num_tokens: int
    deadline: float | None
    queued_at: float
    status: Status = Status.WAITING
    dropped: str | None = None
    """Why it leaves before its end: "client", "deadline" …"""


EntryT = TypeVar("EntryT", bound=Waiting)


@dataclass(slots=True)
class SchedulerOutput(Generic[EntryT]):
    """What one iteration does: drop, then admit, then step."""

    admit: list[EntryT] = field(default_factory=list)
    drop: list[EntryT] = field(default_factory=list)
    """Their ``dropped`` says why."""

    @property
    def admitted(self) -> list[int]:
        """Request ids."""
        return [each.request_id for each in self.admit]

    @property
    def dropped(self) -> list[tuple[int, str]]:
        """Request id and reason: "client" or "deadline"."""
        return [(each.request_id, each.dropped or "") for each in self.drop]


class Scheduler(Generic[EntryT]):
    """The queue of one engine and the rows that its running requests hold."""

    def __init__(self, config: SchedulerConfig, clock: Callable[[], float]) -> None:
        self.config, self._clock = config, clock
        self._entries: dict[int, EntryT] = {}
        self._waiting: deque[EntryT] = deque()
        self._has_dropped = False
        self._first_deadline = math.inf
        self._num_rows = 0
        self._freed_at = self._scheduled_at = clock()

    @property
    def num_waiting(self) -> int:
        """Requests that were not yet admitted."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that were."""
        return len(self._entries) - len(self._waiting)

    @property
    def num_rows(self) -> int:
        """Row slots that running requests hold."""
        return self._num_rows

    @property
    def has_work(self) -> bool:
        """There is something to admit or to decode."""
        return bool(self._entries)

    def add(self, request: EntryT, *, is_first: bool = False) -> None:
        """Queues a request, before all others if it was admitted once already; it must fit the slots.

        It came while a step ran: its wait counts from that step's beginning.
        """
        if self.num_running:
            request.queued_at = min(request.queued_at, self._scheduled_at)
        if request.deadline is not None:
            self._first_deadline = min(self._first_deadline, request.deadline)
        request.status = Status.WAITING
        self._entries[request.request_id] = request
        (self._waiting.appendleft if is_first else self._waiting.append)(request)

    def cancel(self, request_id: int, reason: str) -> None:
        """Drops a request at the next iteration; unknown ids (it has just finished) are passed over."""
        request = self._entries.get(request_id)
        if request is not None:
            request.dropped, self._has_dropped = reason, True

    def finish(self, request_id: int) -> None:
        """Frees the rows of a request."""
        request = self._entries.pop(request_id)
        request.status = Status.DONE
        self._num_rows -= request.num_rows
        self._freed_at = self._clock()

    def schedule(self) -> SchedulerOutput[EntryT]:
        """Decides the next iteration. Dropped requests have left the books when it returns."""
        output = SchedulerOutput[EntryT]()
        now = self._scheduled_at = self._clock()
        self._drop(output, now)
        self._admit(output, now)
        return output

    def _drop(self, output: SchedulerOutput[EntryT], now: float) -> None:
        if not self._has_dropped and now < self._first_deadline:
            return
        for each in self._in_order():
            if each.dropped is None and each.deadline is not None and each.deadline <= now:
                each.dropped = "deadline"
            if each.dropped is not None:
                output.drop.append(each)
        if any(each.status == Status.WAITING for each in output.drop):
            self._waiting = deque(each for each in self._waiting if each.dropped is None)
        for each in output.drop:
            if each.status == Status.RUNNING:
                self.finish(each.request_id)
            else:
                del self._entries[each.request_id]
                each.status = Status.DONE
        self._has_dropped = False
        deadlines = (each.deadline for each in self._entries.values() if each.deadline is not None)
        self._first_deadline = min(deadlines, default=math.inf)

    def _in_order(self) -> Iterator[EntryT]:
        """Those that run, then those that wait."""
        yield from [each for each in self._entries.values() if each.status == Status.RUNNING]
        yield from self._waiting

    def _admit(self, output: SchedulerOutput[EntryT], now: float) -> None:
        group: list[EntryT] = []
        rows, tokens = self._num_rows, 0
        is_running = self.num_running > 0
        for each in self._waiting:
            tokens += each.num_tokens
            if rows + each.num_rows > self.config.num_slots or (group and is_running and tokens > self.config.max_encode_tokens):
                break
            group.append(each)
            rows += each.num_rows
            if len(group) == self.config.max_encoded:
                break
        if not group or not self._is_worth_it(group, now):
            return
        for each in group:
            self._waiting.popleft()
            each.status = Status.RUNNING
        output.admit = group
        self._num_rows = rows

    def _is_worth_it(self, group: Sequence[Waiting], now: float) -> bool:
        if len(group) == self.config.max_encoded or len(group) >= 1 + self.config.busy_share * self._num_rows:
            return True
        return now - max(group[0].queued_at, self._freed_at) >= self.config.admit_wait_s
