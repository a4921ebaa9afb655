# SPDX-License-Identifier: Apache-2.0
"""The metrics of models, by what their engines measure: decode steps over slots, or runs of batches. A model has those of its own.

The series of a model are cached, to avoid look-ups: there are several hundred steps per second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter

from attnserve_server.metrics.histogram import Histogram
from attnserve_server.metrics.sampled import Sample
from attnserve_server.metrics.workers import MODEL_LABELS as _MODEL
from attnserve_server.metrics.workers import Key, Total
from attnserve_server.stats import EngineStats, Measured, RequestStats

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True, slots=True)
class Makers:
    """Functions that make metrics in the server's registry."""

    counter: Callable[[str, str, tuple[str, ...]], Counter]
    sampled: Callable[[str, str, tuple[str, ...], Callable[[], Iterable[Sample]]], object]
    histogram: Callable[[str, str, tuple[float, ...]], Histogram]
    duration: Callable[[str], Histogram]


Totals = Callable[[], Iterable[tuple[Key, Measured, Total]]]
"""Returns all models, what their engines measure, and the sums over the workers."""


class Series(Protocol):
    """The series of one model."""

    measured: Measured

    def answered(self, stats: RequestStats) -> None:
        """Observes one answer."""
        ...

    def reported(self, stats: EngineStats) -> None:
        """Observes one report of a worker."""
        ...


class EngineMetrics:
    """Metrics that all models have; makes the series of a model.

    Args:
        makers: of metrics.
        cancelled: counts requests that engines dropped, by reason.
        totals: read at each scrape.
    """

    def __init__(self, makers: Makers, cancelled: Counter, totals: Totals) -> None:
        self.cancelled = cancelled
        self.queue_duration = makers.duration("queue_duration_seconds")
        self.cold_shapes = makers.counter("cold_shapes", "Steps or runs with a shape that warm-up did not cover.", _MODEL)
        makers.sampled(
            "engine_busy_ratio",
            "Share of the last report's period spent in steps or runs, mean over workers.",
            _MODEL,
            lambda: [(key, total.busy_ratio) for key, _, total in totals()],
        )
        self.busy_seconds = makers.counter(
            "engine_busy_seconds", "Time that the workers spent in steps or runs, in seconds.", _MODEL
        )
        steps, runs = _StepMetrics(makers, totals), _RunMetrics(makers)
        self._series: Mapping[Measured, Callable[[Key], Series]] = {
            Measured.STEPS: lambda key: _StepSeries(self, steps, key),
            Measured.RUNS: lambda key: _RunSeries(self, runs, key),
        }

    def series(self, key: Key, measured: Measured) -> Series:
        """Makes the series of a model; they exist, at zero, from now on."""
        return self._series[measured](key)


class _StepMetrics:
    def __init__(self, makers: Makers, totals: Totals) -> None:
        self.encode_duration = makers.duration("encode_duration_seconds")
        self.decode_duration = makers.duration("decode_duration_seconds")
        self.time_to_first_token = makers.duration("time_to_first_token_seconds")
        self.inter_token_latency = makers.duration("inter_token_latency_seconds")
        self.source_tokens = makers.counter("source_tokens", "Source tokens of answered requests, end symbols included.", _MODEL)
        self.generated_tokens = makers.counter(
            "generated_tokens", "Tokens of the best hypotheses of answered requests, end symbols included.", _MODEL
        )
        self.step_duration = makers.duration("decode_step_duration_seconds")
        self.batch_rows = makers.histogram("batch_rows", "Rows (hypotheses) of a decode step.", ROWS)
        text = "Slots of all workers, by state: used or free."
        makers.sampled("slots", text, (*_MODEL, "state"), lambda: _slots(totals()))


def _slots(totals: Iterable[tuple[Key, Measured, Total]]) -> list[Sample]:
    samples = list[Sample]()
    for key, measured, total in totals:
        if measured is Measured.STEPS:
            samples.append(((*key, "used"), total.num_slots_used))
            samples.append(((*key, "free"), total.num_slots - total.num_slots_used))
    return samples


class _RunMetrics:
    def __init__(self, makers: Makers) -> None:
        self.window_duration = makers.duration("window_duration_seconds")
        self.run_duration = makers.duration("run_duration_seconds")
        self.batch_size = makers.histogram("batch_size", "Requests of a run.", ROWS)


class _CommonSeries:
    def __init__(self, metrics: EngineMetrics, key: Key) -> None:
        self._key, self._cancelled = key, metrics.cancelled
        self._queue = metrics.queue_duration.labels(*key)
        self._cold_shapes = metrics.cold_shapes.labels(*key)
        self._busy_seconds = metrics.busy_seconds.labels(*key)

    def answered(self, stats: RequestStats) -> None:
        """See :class:`Series`."""
        self._queue.observe(stats.queue_s)

    def reported(self, stats: EngineStats) -> None:
        """See :class:`Series`."""
        self._busy_seconds.inc(stats.busy_s)
        cold = len([step for step in stats.steps if step.is_cold]) + len([run for run in stats.runs if run.is_cold])
        if cold:
            self._cold_shapes.inc(cold)
        for reason, number in stats.cancelled.items():
            self._cancelled.labels(*self._key, reason).inc(number)


class _StepSeries(_CommonSeries):
    measured = Measured.STEPS

    def __init__(self, metrics: EngineMetrics, steps: _StepMetrics, key: Key) -> None:
        super().__init__(metrics, key)
        self._encode = steps.encode_duration.labels(*key)
        self._decode = steps.decode_duration.labels(*key)
        self._first_token = steps.time_to_first_token.labels(*key)
        self._inter_token = steps.inter_token_latency.labels(*key)
        self._source_tokens = steps.source_tokens.labels(*key)
        self._generated_tokens = steps.generated_tokens.labels(*key)
        self._step_duration = steps.step_duration.labels(*key)
        self._batch_rows = steps.batch_rows.labels(*key)

    def answered(self, stats: RequestStats) -> None:
        """See :class:`Series`."""
        super().answered(stats)
        self._encode.observe(stats.encode_s)
        self._decode.observe(stats.decode_s)
        self._first_token.observe(stats.time_to_first_token_s)
        for gap_s in stats.inter_token_s:
            self._inter_token.observe(gap_s)
        self._source_tokens.inc(stats.num_source_tokens)
        self._generated_tokens.inc(stats.num_generated_tokens)

    def reported(self, stats: EngineStats) -> None:
        """See :class:`Series`."""
        super().reported(stats)
        for step in stats.steps:
            if step.num_rows > 0:
                self._step_duration.observe(step.step_s)
                self._batch_rows.observe(step.num_rows)


class _RunSeries(_CommonSeries):
    measured = Measured.RUNS

    def __init__(self, metrics: EngineMetrics, runs: _RunMetrics, key: Key) -> None:
        super().__init__(metrics, key)
        self._window = runs.window_duration.labels(*key)
        self._run = runs.run_duration.labels(*key)
        self._batch_size = runs.batch_size.labels(*key)

    def reported(self, stats: EngineStats) -> None:
        """See :class:`Series`."""
        super().reported(stats)
        for run in stats.runs:
            self._run.observe(run.run_s)
            self._batch_size.observe(len(run.window_s))
            for wait_s in run.window_s:
                self._window.observe(wait_s)
