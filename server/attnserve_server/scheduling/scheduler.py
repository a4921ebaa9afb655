# SPDX-License-Identifier: Apache-2.0
"""Admission of requests into the running batch: policy only, over ids and counts; no tensors, graphs or sockets.

Requests are admitted in FIFO order. A group is encoded when it is large relative to the running batch, or when its oldest member
could have been admitted for ``admit_wait_s``. So a single request waits at most that long, and under load several requests share an
encoder run.
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
    """Settings of admission.

    Args:
        num_slots: maximum number of live rows.
        admit_wait_s: longest wait of an admissible request for a larger group while others decode.
        busy_share: a group is large enough at one request plus this share of the live rows.
        max_encode_tokens: maximum source tokens of one encoder run while others decode, to bound their delay.
        max_encoded: maximum sources of one encoder run; 0 for no limit.
    """

    num_slots: int
    admit_wait_s: float = 0.002
    busy_share: float = 0.125
    max_encode_tokens: int = 1024
    max_encoded: int = 0


class Status(enum.IntEnum):
    """State of a request in an engine."""

    WAITING = 0
    RUNNING = 1
    DONE = 2


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in an engine, from the queue to its end. Subclasses add the engine's own state."""

    request_id: int
    num_rows: int
    num_tokens: int
    deadline: float | None
    queued_at: float
    status: Status = Status.WAITING
    dropped: str | None = None
    """Why it is dropped: "client", "deadline" …; None if it is not."""


EntryT = TypeVar("EntryT", bound=Waiting)


@dataclass(slots=True)
class SchedulerOutput(Generic[EntryT]):
    """Decisions for one iteration: drop, then admit, then step."""

    admit: list[EntryT] = field(default_factory=list)
    drop: list[EntryT] = field(default_factory=list)
    """Requests to drop; their ``dropped`` is the reason."""

    @property
    def admitted(self) -> list[int]:
        """Ids of the admitted requests."""
        return [each.request_id for each in self.admit]

    @property
    def dropped(self) -> list[tuple[int, str]]:
        """Ids and reasons of the dropped requests."""
        return [(each.request_id, each.dropped or "") for each in self.drop]


class Scheduler(Generic[EntryT]):
    """The queue of one engine, and the number of rows that its running requests hold."""

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
        """Number of waiting requests."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Number of running requests."""
        return len(self._entries) - len(self._waiting)

    @property
    def num_rows(self) -> int:
        """Number of row slots that running requests hold."""
        return self._num_rows

    @property
    def has_work(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self._entries)

    def add(self, request: EntryT, *, is_first: bool = False) -> None:
        """Queues a request, ahead of all others with ``is_first``, for a restart; it must fit the slots.

        While requests run, its wait counts from the beginning of the last step, during which it arrived.
        """
        if self.num_running:
            request.queued_at = min(request.queued_at, self._scheduled_at)
        if request.deadline is not None:
            self._first_deadline = min(self._first_deadline, request.deadline)
        request.status = Status.WAITING
        self._entries[request.request_id] = request
        (self._waiting.appendleft if is_first else self._waiting.append)(request)

    def cancel(self, request_id: int, reason: str) -> None:
        """Drops a request at the next iteration; ignores unknown ids, of requests that have just finished."""
        request = self._entries.get(request_id)
        if request is not None:
            request.dropped, self._has_dropped = reason, True

    def finish(self, request_id: int) -> None:
        """Removes a request that has finished, and frees its rows."""
        request = self._entries.pop(request_id)
        request.status = Status.DONE
        self._num_rows -= request.num_rows
        self._freed_at = self._clock()

    def has_news(self, now: float) -> bool:
        """Whether :meth:`schedule` may drop or admit a request at this time. If not, an iteration begins without it.

        The first waiting request is admitted first, so while it has no room none is admitted.
        """
        has_room = bool(self._waiting) and self._num_rows + self._waiting[0].num_rows <= self.config.num_slots
        if has_room or self._has_dropped or now >= self._first_deadline:
            return True
        self._scheduled_at = now
        return False

    def schedule(self) -> SchedulerOutput[EntryT]:
        """Decides the next iteration; dropped requests are removed from the accounting."""
        output: SchedulerOutput[EntryT] = SchedulerOutput()
        now = self._scheduled_at = self._clock()
        if self._has_dropped or now >= self._first_deadline:
            self._drop(output, now)
        if self._waiting:
            self._admit(output, now)
        return output

    def _drop(self, output: SchedulerOutput[EntryT], now: float) -> None:
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
        """Yields running requests, then waiting ones."""
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
