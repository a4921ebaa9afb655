# SPDX-License-Identifier: Apache-2.0
"""All metric objects of the server. They are fed with statistics records; nothing outside this package creates a metric.

All methods must be called on one thread (the event loop); any thread may scrape the registry.
"""

from __future__ import annotations

import platform
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram, Info
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import CollectorRegistry

from attnserve_server.metrics import intervals
from attnserve_server.metrics.devices import DeviceMetrics
from attnserve_server.metrics.liveness import Liveness
from attnserve_server.metrics.log_writer import report_drops_to
from attnserve_server.metrics.processes import ProcessMetrics
from attnserve_server.metrics.trust import TrustMetrics
from attnserve_server.metrics.waiting import Waiting
from attnserve_server.metrics.workers import Key, WorkerReports
from attnserve_server.stats import EngineStats, RequestStats

UNKNOWN = "unknown"
"""Label for models that are not served, so that text from a client never creates a series."""

SECONDS = (
    *(1e-4, 2e-4, 3.5e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3, 2e-3, 3.5e-3, 5e-3, 7.5e-3, 0.01, 0.015, 0.02, 0.035, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.35, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Buckets of all durations except loading: a small model's step takes well below a millisecond, a queued request seconds."""

LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)

_MODEL = ("model", "version")
MetricT = TypeVar("MetricT", bound=MetricWrapperBase)


class Metrics:
    """Every metric, in one registry.

    Args:
        registry: the server's own; the global registry is not used.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._of_models: list[MetricWrapperBase] = []
        """Metrics with series by model and version."""
        self._reports = WorkerReports()
        self._queue_lengths: dict[Key, int] = {}
        self._engines: dict[Key, _EngineSeries] = {}
        self._answers: dict[Key, _AnswerSeries] = {}
        self._make_request_metrics()
        self._make_engine_metrics()
        self._make_server_metrics()

    def request_done(self, model: str, version: str, method: str, code: str, duration_s: float) -> None:
        """Counts one ended RPC; an empty model becomes "unknown"."""
        model = model or UNKNOWN
        self._requests.labels(model, method, code).inc()
        self._request_duration.labels(model, version, method).observe(duration_s)

    def request_refused(self, model: str, version: str, reason: str, duration_s: float) -> None:
        """Observes the duration of a refusal; ``reason`` as in :meth:`request_rejected`."""
        self._refusal_duration.labels(model or UNKNOWN, version, reason).observe(duration_s)

    def image_prepared(self, model: str, version: str, duration_s: float) -> None:
        """Observes the preparation time of a request with an image."""
        self._image_preparation.labels(model, version).observe(duration_s)

    def request_rejected(self, model: str, version: str, reason: str) -> None:
        """Counts one request that was refused before it was queued; ``reason`` is the error's, in lower case."""
        self._rejected.labels(model or UNKNOWN, version, reason).inc()

    def request_cancelled(self, model: str, version: str, reason: str) -> None:
        """Counts one request that was cancelled outside the engines; the engines' reports count the others."""
        self.cancelled.labels(model or UNKNOWN, version, reason).inc()

    def answered(self, stats: RequestStats) -> None:
        """Observes the durations and sizes of one answered request."""
        self._answers_of((stats.model, stats.version)).take(stats)

    def engine(self, worker_id: str, stats: EngineStats) -> None:
        """Observes one worker's report on one model."""
        key = stats.model, stats.version
        self._engine_of(key).take(stats)
        self._reports.put(worker_id, stats)
        self._show_workers(key)

    def forget_worker(self, worker_id: str) -> None:
        """Removes a dead worker from the gauges; counters keep its counts."""
        self.liveness.forget(worker_id)
        for key in self._reports.forget(worker_id):
            self._show_workers(key)

    def set_queue(self, model: str, version: str, num_waiting: int, waiting_since: float | None) -> None:
        """Sets length and oldest request of the front's queue; requests that wait in workers are added to the length.

        Args:
            model: its id.
            version: its version.
            num_waiting: number of waiting requests.
            waiting_since: when the oldest one was queued, by the monotonic clock; None if none waits.
        """
        key = model, version
        self._waiting.set(key, waiting_since)
        self._queue_lengths[key] = num_waiting
        self._queue_length.labels(model, version).set(num_waiting + self._reports.total(key).num_waiting)

    def cache_request(self, model: str, version: str, result: str) -> None:
        """Counts one request by its cache result: "hit", "miss" or "coalesced"."""
        self._cache_requests.labels(model, version, result).inc()

    def set_cache(self, num_bytes: int, num_entries: int) -> None:
        """Sets the size of the cache."""
        self._cache_bytes.set(num_bytes)
        self._cache_entries.set(num_entries)

    def answers_under_way(self, num_bytes: int) -> None:
        """Sets the size of the answers that clients have not read yet."""
        self._unread_bytes.set(num_bytes)

    def set_model_ready(self, model: str, version: str, is_ready: bool) -> None:
        """Sets whether a model is ready."""
        self._model_ready.labels(model, version).set(is_ready)

    def model_loaded(self, model: str, version: str, seconds: float) -> None:
        """Observes the time that one worker took to load and warm up a model."""
        self._model_load_duration.labels(model, version).observe(seconds)

    def register_model(self, model: str, version: str) -> None:
        """Creates the series of a served model, so that they exist, at zero, before its first request."""
        key = model, version
        self._answers_of(key)
        self._engine_of(key)
        self._show_workers(key)
        self._waiting.set(key, None)
        self.set_model_ready(model, version, False)

    def forget_model(self, model: str, version: str) -> None:
        """Removes the series of a model that is no longer served, except the count of its RPCs."""
        key = model, version
        for tables in (self._queue_lengths, self._answers, self._engines):
            tables.pop(key, None)
        self._waiting.forget(key)
        self._reports.forget_model(key)
        for metric in self._of_models:
            metric.remove_by_labels({"model": model, "version": version})

    def build_info(self, version: str, onnxruntime: str) -> None:
        """Sets the versions of the server, ONNX Runtime and Python."""
        self._build_info.info({"version": version, "onnxruntime": onnxruntime, "python": platform.python_version()})

    def _answers_of(self, key: Key) -> _AnswerSeries:
        return self._answers.get(key) or self._answers.setdefault(key, _AnswerSeries(self, key))

    def _engine_of(self, key: Key) -> _EngineSeries:
        return self._engines.get(key) or self._engines.setdefault(key, _EngineSeries(self, key))

    def _show_workers(self, key: Key) -> None:
        total = self._reports.total(key)
        self._slots.labels(*key, "used").set(total.num_slots_used)
        self._slots.labels(*key, "free").set(total.num_slots - total.num_slots_used)
        self._busy_ratio.labels(*key).set(total.busy_ratio)
        self._queue_length.labels(*key).set(total.num_waiting + self._queue_lengths.get(key, 0))

    def _make_request_metrics(self) -> None:
        self._requests = self._counter("requests", "Ended RPCs by gRPC status.", ("model", "method", "code"))
        self._rejected = self._counter(
            "requests_rejected",
            "Requests refused before they were queued, by the error's reason.",
            (*_MODEL, "reason"),
        )
        self.cancelled = self._counter(
            "requests_cancelled",
            "Cancelled requests, by reason: the client disconnected, the deadline passed, a shutdown, ...",
            (*_MODEL, "reason"),
        )
        self._request_duration = self._duration("request_duration_seconds", (*_MODEL, "method"))
        self._refusal_duration = self._duration("refusal_duration_seconds", (*_MODEL, "reason"))
        self._image_preparation = self._duration("image_preparation_duration_seconds")
        self.queue_duration = self._duration("queue_duration_seconds")
        self.encode_duration = self._duration("encode_duration_seconds")
        self.decode_duration = self._duration("decode_duration_seconds")
        self.time_to_first_token = self._duration("time_to_first_token_seconds")
        self.inter_token_latency = self._duration("inter_token_latency_seconds")
        self.source_tokens = self._counter("source_tokens", "Source tokens of answered requests, end symbols included.", _MODEL)
        self.generated_tokens = self._counter(
            "generated_tokens", "Tokens of the best hypotheses of answered requests, end symbols included.", _MODEL
        )

    def _make_engine_metrics(self) -> None:
        self.step_duration = self._duration("decode_step_duration_seconds")
        self.batch_rows = self._histogram("batch_rows", "Rows (hypotheses) of a decode step.", ROWS)
        self.cold_shapes = self._counter("cold_shapes", "Steps with a shape that warm-up did not cover.", _MODEL)
        self._slots = self._gauge("slots", "Slots of all workers, by state: used or free.", (*_MODEL, "state"))
        self._queue_length = self._gauge("queue_length", "Waiting requests, in the front and in workers.", _MODEL)
        self._busy_ratio = self._gauge(
            "engine_busy_ratio", "Share of the last report's period spent in steps, mean over workers.", _MODEL
        )

    def _make_server_metrics(self) -> None:
        register = self._registry.register
        self.liveness, self.processes = Liveness(self._gauge, self._counter, register), ProcessMetrics(register)
        self.devices, self._waiting = DeviceMetrics(register), Waiting(register)
        self.trust = TrustMetrics(self._gauge, self._counter)
        self._model_ready = self._gauge("model_ready", "1 if at least one worker is warm, else 0.", _MODEL)
        self._model_load_duration = self._histogram(
            "model_load_duration_seconds", "Time to load and warm up a model in one worker, in seconds.", LOAD_SECONDS
        )
        self._cache_requests = self._counter(
            "cache_requests",
            "Requests by cache result: hit (cached), coalesced (joined an equal request in progress) or miss (computed).",
            (*_MODEL, "result"),
        )
        self._cache_bytes = self._gauge("cache_bytes", "Size of the answer cache in bytes.", ())
        self._cache_entries = self._gauge("cache_entries", "Answers in the cache.", ())
        self._unread_bytes = self._gauge("unread_answers_bytes", "Size of the answers that clients have not read yet.", ())
        dropped = self._counter("log_lines_dropped", "Log lines of the front that its output did not take in time.", ())
        report_drops_to(dropped.inc)
        self._build_info = Info("attnserve_build", "Versions of server, ONNX Runtime and Python.", registry=self._registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return self._kept(Counter(f"attnserve_{name}", text, labels, registry=self._registry), labels)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return self._kept(Gauge(f"attnserve_{name}", text, labels, registry=self._registry), labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = _MODEL) -> Histogram:
        return self._kept(Histogram(f"attnserve_{name}", text, labels, registry=self._registry, buckets=buckets), labels)

    def _kept(self, metric: MetricT, labels: tuple[str, ...]) -> MetricT:
        if set(_MODEL) <= set(labels):
            self._of_models.append(metric)
        return metric

    def _duration(self, name: str, labels: tuple[str, ...] = _MODEL) -> Histogram:
        """Makes the histogram of an interval between two events."""
        return self._histogram(name, intervals.HELP[f"attnserve_{name}"], SECONDS, labels)


class _AnswerSeries:
    """The series of one model's answers, cached to avoid look-ups."""

    def __init__(self, metrics: Metrics, key: Key) -> None:
        self._queue = metrics.queue_duration.labels(*key)
        self._encode = metrics.encode_duration.labels(*key)
        self._decode = metrics.decode_duration.labels(*key)
        self._first_token = metrics.time_to_first_token.labels(*key)
        self._inter_token = metrics.inter_token_latency.labels(*key)
        self._source_tokens = metrics.source_tokens.labels(*key)
        self._generated_tokens = metrics.generated_tokens.labels(*key)

    def take(self, stats: RequestStats) -> None:
        """Observes one answer."""
        self._queue.observe(stats.queue_s)
        self._encode.observe(stats.encode_s)
        self._decode.observe(stats.decode_s)
        self._first_token.observe(stats.time_to_first_token_s)
        for gap_s in stats.inter_token_s:
            self._inter_token.observe(gap_s)
        self._source_tokens.inc(stats.num_source_tokens)
        self._generated_tokens.inc(stats.num_generated_tokens)


class _EngineSeries:
    """The series of one model's steps, cached to avoid look-ups: there are several hundred steps per second."""

    def __init__(self, metrics: Metrics, key: Key) -> None:
        self._key = key
        self._step_duration = metrics.step_duration.labels(*key)
        self._batch_rows = metrics.batch_rows.labels(*key)
        self._cold_shapes = metrics.cold_shapes.labels(*key)
        self._cancelled = metrics.cancelled

    def take(self, stats: EngineStats) -> None:
        """Observes the steps of one report."""
        for step in stats.steps:
            if step.num_rows > 0:
                self._step_duration.observe(step.step_s)
                self._batch_rows.observe(step.num_rows)
            if step.is_cold:
                self._cold_shapes.inc()
        for reason, number in stats.cancelled.items():
            self._cancelled.labels(*self._key, reason).inc(number)
