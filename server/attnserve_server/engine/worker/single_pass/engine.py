# SPDX-License-Identifier: Apache-2.0
"""The engine of single-pass models: each step runs one batch, which the window chooses (``scheduling/window.py``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from attnserve_server.engine.worker.failures import dropped, failed
from attnserve_server.execution.pass_runner import BatchKey, PassRunner, UnfitInputs
from attnserve_server.passes import PassEvent, PassOutcome, PassWork
from attnserve_server.request import Done
from attnserve_server.scheduling.window import Queued, Window
from attnserve_server.stats import EngineStats, RunStats


@dataclass(slots=True, eq=False)
class _Waiting(Queued):
    work: PassWork


class PassEngine:
    """One model's engine, an :class:`Engine`. Runs in a worker process, or in the caller's process in tests; not thread-safe.

    Args:
        runner: the model's runner, not started.
        window_s: longest wait of a request for a larger batch, in seconds; 0 for none.
        clock: monotonic.
        credit: requests that it is sent before it answers (``kinds.py: Kind.credit``).
    """

    def __init__(self, runner: PassRunner, window_s: float, clock: Callable[[], float], credit: float = math.inf) -> None:
        self.bundle, self._runner, self._clock = runner.bundle, runner, clock
        self._window: Window[_Waiting] = Window(window_s, clock, credit)
        self._events: list[PassEvent] = []
        self._runs: list[RunStats] = []
        self._dropped: dict[str, int] = {}
        self._busy_s, self._reported_at = 0.0, clock()

    @property
    def has_work(self) -> bool:
        """Whether any request is waiting."""
        return bool(self._window) or bool(self._events)

    @property
    def due_in_s(self) -> float:
        """See :class:`Engine`: the time until a batch is due."""
        return 0.0 if self._events else self._window.due_in() or 0.0

    def starting(self) -> Iterator[None]:
        """See :class:`Engine`."""
        return self._runner.starting()

    def submit(self, work: PassWork) -> None:
        """See :class:`Engine`; the next step fails a request whose inputs do not fit its graph."""
        try:
            key = self._runner.key(work.payload)
        except UnfitInputs as error:
            self._events += failed([work], error)
            return
        most = self._runner.max_batch(wants_attention=work.payload.wants_attention)
        self._window.add(_Waiting(work.request_id, key, most, work.terms.deadline, self._clock(), work))

    def cancel(self, request_id: int, reason: str) -> None:
        """See :class:`Engine`."""
        self._window.cancel(request_id, reason)

    def step(self) -> list[PassEvent]:
        """Runs the next batch, if one is due; returns the events of its requests, and of those that were dropped."""
        output = self._window.take()
        for each in output.drop:
            reason = each.dropped or ""
            self._dropped[reason] = self._dropped.get(reason, 0) + 1
            self._events.append(dropped(each.request_id, reason))
        if output.batch:
            self._run(output.batch)
        events, self._events = self._events, []
        return events

    def stats(self) -> EngineStats:
        """Returns the statistics since the last call; a single-pass model has no slots."""
        now = self._clock()
        elapsed_s, busy_s = now - self._reported_at, self._busy_s
        report = EngineStats(*self.bundle.key, [], 0, 0, len(self._window), busy_s, elapsed_s, self._dropped, self._runs)
        self._runs, self._dropped, self._busy_s, self._reported_at = [], {}, 0.0, now
        return report

    def _run(self, batch: list[_Waiting]) -> None:
        began = self._clock()
        try:
            answers, is_cold = self._runner.run(cast(BatchKey, batch[0].key), [each.work.payload for each in batch])
        except Exception as error:  # noqa: BLE001  a failed run fails only the requests in it
            self._events += failed([each.work for each in batch], error)
            self._busy_s += self._clock() - began
            return
        ended = self._clock()
        run_s = ended - began
        self._busy_s += run_s
        self._runs.append(RunStats(run_s, [began - each.queued_at for each in batch], is_cold))
        for each, outputs in zip(batch, answers, strict=True):
            outcome, queued_at = PassOutcome(outputs, len(batch)), each.queued_at
            self._events.append(Done(each.request_id, outcome, began, run_s, ended, ended, 1, batchable_at=queued_at))
