# SPDX-License-Identifier: Apache-2.0
"""Who joins the running batch and when: policy alone, over ids and counts. Knows no tensors, no graphs, no sockets.

Requests are admitted first come first served. A group is worth an encoder run when it is large against what is decoding, or
when its oldest member could have been admitted for some time: so a lone request waits at most ``admit_wait_s``, and a full
house encodes several at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


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


@dataclass(slots=True)
class Waiting:
    """A request in the queue of an engine."""

    request_id: int
    num_rows: int
    num_tokens: int
    deadline: float | None
    queued_at: float


@dataclass(slots=True)
class SchedulerOutput:
    """What one iteration does: drop, then admit, then step."""

    admitted: list[int] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)
    """Request id and reason: "client" or "deadline"."""


class Scheduler:
    """The queue of one engine and the rows that its running requests hold."""

    def __init__(self, config: SchedulerConfig, clock: Callable[[], float]) -> None:
        self.config, self._clock = config, clock
        self._waiting: deque[Waiting] = deque()
        self._running: dict[int, Waiting] = {}
        self._cancelled: dict[int, str] = {}
        self._first_deadline = math.inf
        self._num_rows = 0
        self._freed_at = self._scheduled_at = clock()

    @property
    def num_waiting(self) -> int:
        """Requests that were not yet admitted."""
        return len(self._waiting)

    @property
    def num_rows(self) -> int:
        """Row slots that running requests hold."""
        return self._num_rows

    @property
    def has_work(self) -> bool:
        """There is something to admit or to decode."""
        return bool(self._waiting or self._running)

    def add(self, request: Waiting, *, is_first: bool = False) -> None:
        """Queues a request, before all others if it was admitted once already; it must fit the slots.

        It came while a step ran: its wait counts from that step's beginning.
        """
        if self._running:
            request.queued_at = min(request.queued_at, self._scheduled_at)
        if request.deadline is not None:
            self._first_deadline = min(self._first_deadline, request.deadline)
        (self._waiting.appendleft if is_first else self._waiting.append)(request)

    def cancel(self, request_id: int, reason: str) -> None:
        """Drops a request at the next iteration; unknown ids (it has just finished) are passed over."""
        if request_id in self._running or any(each.request_id == request_id for each in self._waiting):
            self._cancelled[request_id] = reason

    def finish(self, request_id: int) -> None:
        """Frees the rows of a request."""
        self._num_rows -= self._running.pop(request_id).num_rows
        self._freed_at = self._clock()

    def schedule(self) -> SchedulerOutput:
        """Decides the next iteration. Dropped requests have left the books when it returns."""
        output = SchedulerOutput()
        now = self._scheduled_at = self._clock()
        self._drop(output, now)
        self._admit(output, now)
        return output

    def _drop(self, output: SchedulerOutput, now: float) -> None:
        if not self._cancelled and now < self._first_deadline:
            return
        for each in [*self._running.values(), *self._waiting]:
            reason = self._cancelled.get(each.request_id)
            if reason is None and each.deadline is not None and each.deadline <= now:
                reason = "deadline"
            if reason is not None:
                output.dropped.append((each.request_id, reason))
        gone = {request_id for request_id, _ in output.dropped}
        if gone:
            self._waiting = deque(each for each in self._waiting if each.request_id not in gone)
            for request_id in gone & set(self._running):
                self.finish(request_id)
        self._cancelled.clear()
        deadlines = (each.deadline for each in (*self._running.values(), *self._waiting) if each.deadline is not None)
        self._first_deadline = min(deadlines, default=math.inf)

    def _admit(self, output: SchedulerOutput, now: float) -> None:
        group: list[Waiting] = []
        rows, tokens = self._num_rows, 0
        for each in self._waiting:
            tokens += each.num_tokens
            if rows + each.num_rows > self.config.num_slots or (group and self._running and tokens > self.config.max_encode_tokens):
                break
            group.append(each)
            rows += each.num_rows
            if len(group) == self.config.max_encoded:
                break
        if not group or not self._is_worth_it(group, now):
            return
        for each in group:
            self._waiting.popleft()
            self._running[each.request_id] = each
            output.admitted.append(each.request_id)
        self._num_rows = rows

    def _is_worth_it(self, group: list[Waiting], now: float) -> bool:
        if len(group) == self.config.max_encoded or len(group) >= 1 + self.config.busy_share * self._num_rows:
            return True
        return now - max(group[0].queued_at, self._freed_at) >= self.config.admit_wait_s
