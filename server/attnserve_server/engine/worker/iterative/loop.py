# SPDX-License-Identifier: Apache-2.0
"""The engine loop: schedule, execute, update. In-flight batching: requests enter and leave the batch between any two steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from attnserve_server.engine.worker.failures import dropped, failed
from attnserve_server.engine.worker.iterative.batch import RunningBatch
from attnserve_server.engine.worker.iterative.sequence import Decoding
from attnserve_server.errors import ExecutionFailed
from attnserve_server.execution.runner import IterativeRunner, StepOutputs
from attnserve_server.metrics import logs
from attnserve_server.request import Done, Failed, SequenceEvent, SequenceOutcome, SequenceWork, TokensProduced
from attnserve_server.scheduling.scheduler import Scheduler, SchedulerConfig, SchedulerOutput
from attnserve_server.stats import EngineStats, StepStats

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Executed:
    """Results of the graphs of one iteration."""

    admitted: list[Decoding]
    outputs: StepOutputs | None
    """Outputs of the decode step; None if no row was live or the step failed."""
    started: float
    encoded: float
    """When the encoder had finished."""
    num_rows: int
    is_cold: bool


class EngineLoop:
    """One model's engine, an :class:`Engine`. Runs in a worker process, or in the caller's process in tests; not thread-safe.

    Args:
        runner: the model's runner, not started.
        config: of the scheduler.
        clock: monotonic.
        stream_interval_s: interval at which streams send their new tokens; 0 for every step. The first token is sent at once.
    """

    def __init__(
        self,
        runner: IterativeRunner,
        config: SchedulerConfig,
        clock: Callable[[], float],
        *,
        stream_interval_s: float = 0.0,
    ) -> None:
        self.bundle, self.runner, self._clock, self._stream_interval_s = runner.bundle, runner, clock, stream_interval_s
        self._scheduler: Scheduler[Decoding] = Scheduler(config, clock)
        self._interval = 0
        """Number of the stream interval in which the last step ended."""
        self._events: list[SequenceEvent] = []
        self._steps: list[StepStats] = []
        self._dropped: dict[str, int] = {}
        self._busy_s, self._reported_at = 0.0, clock()

    def start(self) -> None:
        """Loads the graphs and warms them up."""
        for _ in self.starting():
            pass

    def starting(self) -> Iterator[None]:
        """:meth:`start`, one part per yield."""
        self.runner.start()
        self.batch = RunningBatch(self.runner)
        yield
        yield from self.runner.warming()

    @property
    def has_work(self) -> bool:
        """Whether any request is waiting or running."""
        return self._scheduler.has_work

    @property
    def due_in_s(self) -> float:
        """See :class:`Engine`: each step decodes."""
        return 0.0

    def submit(self, work: SequenceWork) -> None:
        """See :class:`Engine`."""
        self._scheduler.add(Decoding.of(work, self._clock()))

    def cancel(self, request_id: int, reason: str) -> None:
        """See :class:`Engine`; the next step frees its slots."""
        self._scheduler.cancel(request_id, reason)

    def step(self) -> list[SequenceEvent]:
        """Runs one iteration: schedule, execute, update; returns the events of requests."""
        started = self._clock()
        output = self.schedule()
        executed = self.execute(output)
        self.update(executed)
        self._busy_s += self._clock() - started
        events, self._events = self._events, []
        return events

    def stats(self) -> EngineStats:
        """Returns the statistics since the last call."""
        now = self._clock()
        model, version = self.bundle.key
        report = EngineStats(
            model,
            version,
            self._steps,
            self._scheduler.config.num_slots,
            self._scheduler.num_rows,
            self._scheduler.num_waiting,
            self._busy_s,
            now - self._reported_at,
            self._dropped,
        )
        self._steps, self._dropped, self._busy_s, self._reported_at = [], {}, 0.0, now
        return report

    def schedule(self) -> SchedulerOutput[Decoding]:
        """Decides what this iteration drops and admits, and frees the slots of the dropped requests."""
        output = self._scheduler.schedule()
        for sequence in output.drop:
            self._drop(sequence)
        return output

    def execute(self, output: SchedulerOutput[Decoding]) -> Executed:
        """Runs the encoder on admitted requests, then one decode step on all rows."""
        started = self._clock()
        if output.admit:
            self._admit(output.admit)
        encoded, cold, num_rows = self._clock(), self.runner.num_cold_shapes, self.batch.num_rows
        outputs = self._guarded(self.batch.run) if num_rows else None
        return Executed(output.admit, outputs, started, encoded, num_rows, self.runner.num_cold_shapes > cold)

    def update(self, executed: Executed) -> None:
        """Applies the step's outputs: advances searches, emits parts of streams and answers."""
        outputs = executed.outputs
        advanced = self._guarded(self.batch.advance, outputs) if outputs is not None else None
        now = self._clock()
        if executed.num_rows or executed.admitted:
            encode_s = executed.encoded - executed.started
            self._steps.append(
                StepStats(executed.num_rows, now - executed.encoded, len(executed.admitted), encode_s, executed.is_cold)
            )
        for sequence in executed.admitted:
            sequence.first_token_at = now
        sends = self._begins_interval(now)
        for sequence in advanced or ():
            self._emit(sequence, now, sends)

    def _emit(self, sequence: Decoding, now: float, sends: bool) -> None:
        search = sequence.search
        if search.is_done and not search.finished:
            with logs.of_request(sequence.request.log_id):
                log.error("request %d has no hypothesis: the model gave no finite scores", sequence.request_id)
            self._events.append(Failed(sequence.request_id, ExecutionFailed.reason, "the model gave no answer"))
            self._forget(sequence)
            return
        is_due = sends or search.is_done or not sequence.num_sent
        if sequence.request.terms.is_streamed and is_due and not self._stream(sequence):
            return
        if not search.is_done:
            return
        if any(self.batch.lacks_alignment(sequence, found.path.tokens) for found in search.results()):
            self._restart_with_attention(sequence)
            return
        self._events.append(
            Done(
                sequence.request_id,
                SequenceOutcome(self.batch.hypotheses(sequence)),
                sequence.admitted_at,
                sequence.encode_s,
                sequence.first_token_at,
                now,
                sequence.num_steps,
            )
        )
        self._forget(sequence)

    def _begins_interval(self, now: float) -> bool:
        """Whether all streams send in this step, because it is the first to end in a new interval."""
        if not self._stream_interval_s:
            return True
        before, self._interval = self._interval, int(now / self._stream_interval_s)
        return self._interval != before

    def _stream(self, sequence: Decoding) -> bool:
        """Emits the tokens that have become certain; returns false if the sequence was restarted with attention instead."""
        known = sequence.num_sent
        path, num_certain = sequence.search.certain(known)
        if num_certain > known:
            tokens = path.tokens[known:num_certain]
            if self.batch.lacks_alignment(sequence, tokens):
                self._restart_with_attention(sequence)
                return False
            copied_from = self.batch.copied_from(sequence, path, known)
            self._events.append(TokensProduced(sequence.request_id, tokens, copied_from))
            sequence.num_sent = num_certain
        return True

    def _restart_with_attention(self, sequence: Decoding) -> None:
        """Queues a request again and keeps its attention, because an unknown symbol needs its aligned source token.

        This is rare, so other requests compute no attention for it. Attention changes no token, so tokens already sent stay valid.
        """
        self._forget(sequence)
        sequence.needs_alignment, sequence.queued_at = True, self._clock()
        self._scheduler.add(sequence, is_first=True)

    def _admit(self, group: list[Decoding]) -> None:
        started = self._clock()
        try:
            self.batch.admit(group, started)
        except Exception as error:  # noqa: BLE001  a failed graph fails only the requests in it
            self._fail(group, error)
            return
        for sequence in group:
            sequence.encode_s = self._clock() - started

    def _guarded(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Returns the result of a call for the whole batch; None if it raised, which fails the batch's requests and no others."""
        sequences = list(self.batch.sequences.values())
        try:
            return call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  see _admit
            self.batch.clear()  # the slots' state is unknown
            self._fail(sequences, error)
            return None

    def _fail(self, sequences: list[Decoding], error: Exception) -> None:
        """Ends requests with INTERNAL."""
        self._events += failed((sequence.request for sequence in sequences), error)
        for sequence in sequences:
            self._forget(sequence)

    def _drop(self, sequence: Decoding) -> None:
        """Emits the failure of a request that the scheduler dropped, and frees its slots."""
        reason = sequence.dropped or ""
        self._dropped[reason] = self._dropped.get(reason, 0) + 1
        self._events.append(dropped(sequence.request_id, reason))
        if sequence.request_id in self.batch.sequences:
            self.batch.release(sequence.request_id)

    def _forget(self, sequence: Decoding) -> None:
        """Removes an admitted request from its slots and from the scheduler."""
        if sequence.request_id in self.batch.sequences:
            self.batch.release(sequence.request_id)
        self._scheduler.finish(sequence.request_id)
