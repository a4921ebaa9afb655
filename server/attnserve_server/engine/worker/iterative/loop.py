# SPDX-License-Identifier: Apache-2.0
"""The engine loop: schedule, execute, update. In-flight batching is that a request may join or leave between any two calls."""

from __future__ import annotations

import logging
from collections.abc import Callable

from attnserve_server.bundle.loader import Bundle
from attnserve_server.engine.worker.iterative.batch import RunningBatch
from attnserve_server.engine.worker.iterative.sequence import Decoding
from attnserve_server.errors import Cancelled, DeadlineExceeded, ExecutionFailed
from attnserve_server.execution.factory import make_runner
from attnserve_server.request import RequestEvent, RequestFailed, RequestFinished, SequenceRequest, TokensProduced
from attnserve_server.scheduling.scheduler import Scheduler, SchedulerConfig, SchedulerOutput, Waiting
from attnserve_server.stats import EngineStats, StepStats

log = logging.getLogger(__name__)
_DROPPED = {"client": Cancelled, "deadline": DeadlineExceeded}


class EngineLoop:
    """One model's engine. Runs inside a worker process, or in the caller's for tests; not thread-safe.

    Args:
        bundle: the model.
        config: of the scheduler.
        clock: monotonic.
        stream_interval_s: tokens of a stream that come within so long go together; 0 for each at once. The first one never waits.
        captures: on CUDA, whether steps are replayed as graphs.
    """

    def __init__(
        self,
        bundle: Bundle,
        config: SchedulerConfig,
        clock: Callable[[], float],
        *,
        stream_interval_s: float = 0.0,
        captures: bool = True,
    ) -> None:
        self.bundle, self._clock, self._stream_interval_s = bundle, clock, stream_interval_s
        self._runner = make_runner(bundle, config.num_slots, captures=captures)
        self._scheduler = Scheduler(config, clock)
        self._requests: dict[int, SequenceRequest] = {}
        self._num_sent: dict[int, int] = {}
        self._interval = 0
        """The number of the interval in which the last step ended."""
        self._aligned: set[int] = set()
        self._events: list[RequestEvent] = []
        self._heard: list[Decoding] = []
        self._steps: list[StepStats] = []
        self._dropped: dict[str, int] = {}
        self._busy_s, self._reported_at = 0.0, clock()

    def start(self) -> None:
        """Loads the graphs and warms them up."""
        self._runner.start()
        self._batch = RunningBatch(self._runner)
        self._runner.warm_up()

    @property
    def has_work(self) -> bool:
        """Something waits or decodes."""
        return self._scheduler.has_work

    def submit(self, request: SequenceRequest) -> None:
        """Queues a request for the next step."""
        self._requests[request.request_id] = request
        self._num_sent[request.request_id] = 0
        self._scheduler.add(self._waiting(request))

    def cancel(self, request_id: int, reason: str) -> None:
        """Drops a request before the next step; its slots are free then."""
        self._scheduler.cancel(request_id, reason)

    def step(self) -> list[RequestEvent]:
        """One iteration: three calls. Returns what happened to requests."""
        started = self._clock()
        output = self._scheduler.schedule()
        stats = self._execute(output)
        self._update(output)
        self._busy_s += self._clock() - started
        if stats.num_rows or stats.num_encoded:
            self._steps.append(stats)
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

    def _execute(self, output: SchedulerOutput) -> StepStats:
        for request_id, reason in output.dropped:
            self._drop(request_id, reason)
        started = self._clock()
        if output.admitted:
            self._guarded(output.admitted, self._admit)
        encoded = self._clock()
        num_rows, cold, self._heard = self._batch.num_rows, self._runner.num_cold_shapes, []
        if num_rows:
            self._guarded(list(self._batch.sequences), self._step)
        return StepStats(
            num_rows, self._clock() - encoded, len(output.admitted), encoded - started, self._runner.num_cold_shapes > cold
        )

    def _update(self, output: SchedulerOutput) -> None:
        now = self._clock()
        for request_id in output.admitted:
            if request_id in self._batch.sequences:
                self._batch.sequences[request_id].first_token_at = now
        sends = self._begins_interval(now)
        for sequence in self._heard:
            self._emit(sequence, now, sends)

    def _emit(self, sequence: Decoding, now: float, sends: bool) -> None:
        request, search = sequence.request, sequence.search
        if search.is_done and not search.finished:
            log.error("request %d has no hypothesis: the model gave no finite scores", request.request_id)
            self._events.append(RequestFailed(request.request_id, ExecutionFailed.reason, "the model gave no answer"))
            self._forget(request.request_id)
            return
        is_due = sends or search.is_done or not self._num_sent[request.request_id]
        if request.terms.is_streamed and is_due and not self._stream(sequence):
            return
        if not search.is_done:
            return
        if any(self._batch.lacks_alignment(sequence, found.path.tokens) for found in search.results()):
            self._begin_again(sequence)
            return
        self._events.append(
            RequestFinished(
                request.request_id,
                self._batch.hypotheses(sequence),
                sequence.admitted_at,
                sequence.encode_s,
                sequence.first_token_at,
                now,
                sequence.num_steps,
            )
        )
        self._forget(request.request_id)

    def _begins_interval(self, now: float) -> bool:
        """Whether this is the step in which all streams are sent what they have: the first one to end in an interval."""
        if not self._stream_interval_s:
            return True
        before, self._interval = self._interval, int(now / self._stream_interval_s)
        return self._interval != before

    def _stream(self, sequence: Decoding) -> bool:
        """Reports the tokens that have become certain; false where the sequence was begun again for them."""
        request_id, known = sequence.request.request_id, self._num_sent[sequence.request.request_id]
        path, num_certain = sequence.search.certain(known)
        if num_certain > known:
            tokens = path.tokens[known:num_certain]
            if self._batch.lacks_alignment(sequence, tokens):
                self._begin_again(sequence)
                return False
            self._events.append(TokensProduced(request_id, tokens, self._batch.copied_from(sequence, path, known)))
            self._num_sent[request_id] = num_certain
        return True

    def _begin_again(self, sequence: Decoding) -> None:
        """Decodes a request anew and keeps its attention: an unknown symbol is replaced by what it was aligned to.

        It is rare, so nobody else pays for it; and attention changes no token, so what was sent stands.
        """
        request = sequence.request
        self._aligned.add(request.request_id)
        self._batch.release(request.request_id)
        self._scheduler.finish(request.request_id)
        self._scheduler.add(self._waiting(request), is_first=True)

    def _waiting(self, request: SequenceRequest) -> Waiting:
        return Waiting(request.request_id, request.options.num_rows, request.source_length, request.terms.deadline, self._clock())

    def _step(self, ids: list[int]) -> None:
        try:
            self._heard = self._batch.step()
        except Exception:
            self._batch.clear()  # how far it came is not known
            raise

    def _admit(self, ids: list[int]) -> None:
        started = self._clock()
        self._batch.admit([self._requests[request_id] for request_id in ids], started, self._aligned)
        for request_id in ids:
            self._batch.sequences[request_id].encode_s = self._clock() - started

    def _drop(self, request_id: int, reason: str) -> None:
        self._dropped[reason] = self._dropped.get(reason, 0) + 1
        error = _DROPPED.get(reason, Cancelled)  # "shutdown" and "error" too: the front gives up for its own reasons
        self._events.append(RequestFailed(request_id, error.reason, f"the request was dropped: {reason}"))
        if request_id in self._batch.sequences:
            self._batch.release(request_id)
        self._strike(request_id)

    def _forget(self, request_id: int) -> None:
        self._batch.release(request_id)
        self._scheduler.finish(request_id)
        self._strike(request_id)

    def _strike(self, request_id: int) -> None:
        del self._requests[request_id], self._num_sent[request_id]
        self._aligned.discard(request_id)

    def _guarded(self, ids: list[int], call: Callable[[list[int]], None]) -> None:
        """A graph that raises fails the requests that were in it, and nothing else."""
        try:
            call(ids)
        except Exception:
            log.exception("execution failed; %d requests are answered with INTERNAL", len(ids))
            for request_id in ids:
                self._events.append(RequestFailed(request_id, ExecutionFailed.reason, "the model could not be run"))
                if request_id in self._batch.sequences:
                    self._batch.release(request_id)
                self._scheduler.finish(request_id)
                self._strike(request_id)
