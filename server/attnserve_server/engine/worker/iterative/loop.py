# SPDX-License-Identifier: Apache-2.0
"""The engine loop: schedule, execute, update. In-flight batching is that a request may join or leave between any two calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from attnserve_server.engine.worker.iterative.batch import RunningBatch
from attnserve_server.engine.worker.iterative.sequence import Decoding
from attnserve_server.errors import Cancelled, DeadlineExceeded, ExecutionFailed
from attnserve_server.execution.runner import IterativeRunner, StepOutputs
from attnserve_server.metrics import logs
from attnserve_server.request import Done, Failed, SequenceEvent, SequenceOutcome, SequenceWork, TokensProduced
from attnserve_server.scheduling.scheduler import Scheduler, SchedulerConfig, SchedulerOutput
from attnserve_server.stats import EngineStats, StepStats

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
_DROPPED = {"client": Cancelled, "deadline": DeadlineExceeded}


@dataclass(slots=True)
class Executed:
    """What the graphs of one iteration gave."""

    admitted: list[Decoding]
    outputs: StepOutputs | None
    """Of the decode step; None where there was none."""
    started: float
    encoded: float
    """When the encoder was done."""
    num_rows: int
    is_cold: bool


class EngineLoop:
    """One model's engine, an :class:`Engine`. Runs inside a worker process, or in the caller's for tests; not thread-safe.

    Args:
        runner: of the model, not yet started.
        config: of the scheduler.
        clock: monotonic.
        stream_interval_s: tokens of a stream that come within so long go together; 0 for each at once. The first one never waits.
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
        """The number of the interval in which the last step ended."""
        self._events: list[SequenceEvent] = []
        self._steps: list[StepStats] = []
        self._dropped: dict[str, int] = {}
        self._busy_s, self._reported_at = 0.0, clock()

    def start(self) -> None:
        """Loads the graphs and warms them up."""
        for _ in self.starting():
            pass

    def starting(self) -> Iterator[None]:
        """:meth:`start` in parts."""
        self.runner.start()
        self.batch = RunningBatch(self.runner)
        yield
        yield from self.runner.warming()

    @property
    def has_work(self) -> bool:
        """Something waits or decodes."""
        return self._scheduler.has_work

    def submit(self, work: SequenceWork) -> None:
        """Queues a request for the next step."""
        self._scheduler.add(Decoding.of(work, self._clock()))

    def cancel(self, request_id: int, reason: str) -> None:
        """Drops a request before the next step; its slots are free then."""
        self._scheduler.cancel(request_id, reason)

    def step(self) -> list[SequenceEvent]:
        """One iteration: three calls. Returns what happened to requests."""
        started = self._clock()
        output = self.schedule()
        executed = self.execute(output)
        self.update(executed)
        self._busy_s += self._clock() - started
        events, self._events = self._events, []
        return events

    def stats(self) -> EngineStats:
        """What happened since the last call."""
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
        """Decides what this iteration does; what is dropped has left its slots when it returns."""
        output = self._scheduler.schedule()
        for sequence in output.drop:
            self._drop(sequence)
        return output

    def execute(self, output: SchedulerOutput[Decoding]) -> Executed:
        """Runs the graphs: the encoder over what is admitted, then one step over all rows."""
        started = self._clock()
        if output.admit:
            self._admit(output.admit)
        encoded, cold, num_rows = self._clock(), self.runner.num_cold_shapes, self.batch.num_rows
        outputs = self._guarded(self.batch.run) if num_rows else None
        return Executed(output.admit, outputs, started, encoded, num_rows, self.runner.num_cold_shapes > cold)

    def update(self, executed: Executed) -> None:
        """What the step means for each request: searches, parts of streams, answers."""
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
        """Whether this is the step in which all streams are sent what they have: the first one to end in an interval."""
        if not self._stream_interval_s:
            return True
        before, self._interval = self._interval, int(now / self._stream_interval_s)
        return self._interval != before

    def _stream(self, sequence: Decoding) -> bool:
        """Reports the tokens that have become certain; false where the sequence was begun again for them."""
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
        """Decodes a request anew and keeps its attention: an unknown symbol is replaced by what it was aligned to.

        It is rare, so no other request pays for it; and attention changes no token, so what was sent stands.
        """
        self._forget(sequence)
        sequence.needs_alignment, sequence.queued_at = True, self._clock()
        self._scheduler.add(sequence, is_first=True)

    def _admit(self, group: list[Decoding]) -> None:
        started = self._clock()
        try:
            self.batch.admit(group, started)
        except Exception as error:  # noqa: BLE001  a graph that raises fails the requests that were in it, and nothing else
            self._fail(group, error)
            return
        for sequence in group:
            sequence.encode_s = self._clock() - started

    def _guarded(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What a call for the whole batch gives; None where it raised, which fails the requests in the batch, and nothing else."""
        sequences = list(self.batch.sequences.values())
        try:
            return call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  see _admit
            self.batch.clear()  # how far it came is not known
            self._fail(sequences, error)
            return None

    def _fail(self, sequences: list[Decoding], error: Exception) -> None:
        """Ends requests with INTERNAL; the log has one line for each, under its id, and the first one's has the traceback."""
        text = "execution failed, the request is answered with INTERNAL (one of %d): %s: %s"
        for index, sequence in enumerate(sequences):
            with logs.of_request(sequence.request.log_id):
                log.error(text, len(sequences), type(error).__name__, error, exc_info=error if index == 0 else None)
            self._events.append(Failed(sequence.request_id, ExecutionFailed.reason, "the model could not be run"))
            self._forget(sequence)

    def _drop(self, sequence: Decoding) -> None:
        """A request that the scheduler has dropped leaves its slots."""
        reason = sequence.dropped or ""
        self._dropped[reason] = self._dropped.get(reason, 0) + 1
        error = _DROPPED.get(reason, Cancelled)  # "shutdown" and "error" too: the front gives up for its own reasons
        self._events.append(Failed(sequence.request_id, error.reason, f"the request was dropped: {reason}"))
        if sequence.request_id in self.batch.sequences:
            self.batch.release(sequence.request_id)

    def _forget(self, sequence: Decoding) -> None:
        """A request that was admitted leaves its slots, and the scheduler's books."""
        if sequence.request_id in self.batch.sequences:
            self.batch.release(sequence.request_id)
        self._scheduler.finish(sequence.request_id)
