# SPDX-License-Identifier: Apache-2.0
"""All metric objects of the server. They are fed with statistics records; nothing outside this package creates a metric.

All methods must be called on one thread (the event loop); any thread may scrape the registry.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from prometheus_client import Counter, Gauge, Info
from prometheus_client.registry import CollectorRegistry

from attnserve_server.metrics import intervals
from attnserve_server.metrics.devices import DeviceMetrics
from attnserve_server.metrics.engines import EngineMetrics, Makers, Series
from attnserve_server.metrics.histogram import Histogram
from attnserve_server.metrics.liveness import Liveness
from attnserve_server.metrics.log_writer import report_drops_to
from attnserve_server.metrics.processes import ProcessMetrics
from attnserve_server.metrics.sampled import Sample, SampledGauge
from attnserve_server.metrics.spans import SpanMetrics
from attnserve_server.metrics.trust import TrustMetrics
from attnserve_server.metrics.waiting import Waiting
from attnserve_server.metrics.workers import MODEL_LABELS as _MODEL
from attnserve_server.metrics.workers import Key, Total, WorkerReports
from attnserve_server.stats import EngineStats, Measured, RequestStats

UNKNOWN = "unknown"
"""Label for models that are not served, so that text from a client never creates a series."""

SECONDS = (
    *(1e-4, 2e-4, 3.5e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3, 2e-3, 3.5e-3, 5e-3, 7.5e-3, 0.01, 0.015, 0.02, 0.035, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.35, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Buckets of all durations except loading: a small model's step takes well below a millisecond, a queued request seconds."""

LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class ByLabels(Protocol):
    """A metric whose series can be removed."""

    def remove_by_labels(self, labels: dict[str, str], /) -> object:
        """Removes all series that have these values of these labels."""
        ...


MetricT = TypeVar("MetricT", bound=ByLabels)


class Metrics:
    """Every metric, in one registry.

    Args:
        registry: the server's own; the global registry is not used.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._of_models: list[ByLabels] = []
        """Metrics with series by model and version."""
        self.reports = WorkerReports()
        self._queue_lengths: dict[Key, int] = {}
        self._series: dict[Key, Series] = {}
        self._make_request_metrics()
        makers = Makers(self._counter, self._sampled, self._histogram, self._duration)
        self._engines = EngineMetrics(makers, self.cancelled, self._totals)
        self._make_server_metrics()

    def request_done(self, model: str, version: str, method: str, code: str, duration_s: float) -> None:
        """Counts one ended RPC; an empty model becomes "unknown"."""
        model = model or UNKNOWN
        key = model, method, code
        if (count := self._counts.get(key)) is None:
            count = self._counts[key] = self._requests.labels(*key)
        count.inc()
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
        self._series_of((stats.model, stats.version)).answered(stats)

    def engine(self, worker_id: str, stats: EngineStats) -> None:
        """Observes one worker's report on one model."""
        key = stats.model, stats.version
        self._series_of(key).reported(stats)
        self.reports.put(worker_id, stats)

    def forget_worker(self, worker_id: str) -> None:
        """Removes a dead worker from the gauges; counters keep its counts."""
        self.liveness.forget(worker_id)
        self.reports.forget(worker_id)

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

    def cache_request(self, model: str, version: str, result: str) -> None:
        """Counts one request by its cache result: "hit", "miss" or "coalesced"."""
        self._cache_requests.labels(model, version, result).inc()

    def set_cache(self, num_bytes: int, num_entries: int) -> None:
        """Sets the size of the cache."""
        self._cache_bytes.set(num_bytes)
        self._cache_entries.set(num_entries)

    def watch_answers(self, num_bytes: Callable[[], int]) -> None:
        """Sets the function that returns the size of the answers that clients have not read yet; called at each scrape."""
        self._unread_bytes.set_function(num_bytes)

    def set_model_ready(self, model: str, version: str, is_ready: bool) -> None:
        """Sets whether a model is ready."""
        self._model_ready.labels(model, version).set(is_ready)

    def model_loaded(self, model: str, version: str, seconds: float) -> None:
        """Observes the time that one worker took to load and warm up a model."""
        self._model_load_duration.labels(model, version).observe(seconds)

    def register_model(self, model: str, version: str, measured: Measured = Measured.STEPS) -> None:
        """Creates the series of a served model, by what its engine measures, so that they exist, at zero, before any request."""
        key = model, version
        self._series_of(key, measured)
        self._waiting.set(key, None)
        self.set_model_ready(model, version, False)

    def forget_model(self, model: str, version: str) -> None:
        """Removes the series of a model that is no longer served, except the count of its RPCs."""
        key = model, version
        self._queue_lengths.pop(key, None)
        self._series.pop(key, None)
        self._waiting.forget(key)
        self.reports.forget_model(key)
        for metric in self._of_models:
            metric.remove_by_labels({"model": model, "version": version})

    def build_info(self, version: str, onnxruntime: str) -> None:
        """Sets the versions of the server, ONNX Runtime and Python."""
        self._build_info.info({"version": version, "onnxruntime": onnxruntime, "python": platform.python_version()})

    def _series_of(self, key: Key, measured: Measured = Measured.STEPS) -> Series:
        return self._series.get(key) or self._series.setdefault(key, self._engines.series(key, measured))

    def _totals(self) -> list[tuple[Key, Measured, Total]]:
        return [(key, series.measured, self.reports.total(key)) for key, series in list(self._series.items())]

    def _read_queue_lengths(self) -> list[Sample]:
        return [(key, float(total.num_waiting + self._queue_lengths.get(key, 0))) for key, _, total in self._totals()]

    def _make_request_metrics(self) -> None:
        self._requests = self._counter("requests", "Ended RPCs by gRPC status.", ("model", "method", "code"))
        self._counts: dict[tuple[str, str, str], Counter] = {}
        """Series of ``_requests``, to avoid look-ups."""
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
        self._sampled("queue_length", "Waiting requests, in the front and in workers.", _MODEL, self._read_queue_lengths)

    def _make_server_metrics(self) -> None:
        register = self._registry.register
        self.liveness, self.processes = Liveness(self._gauge, self._counter, register), ProcessMetrics(register)
        self.devices, self._waiting = DeviceMetrics(register), Waiting(register)
        self.trust, self.spans = TrustMetrics(self._gauge, self._counter), SpanMetrics(self._counter)
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
        histogram = Histogram(f"attnserve_{name}", text, labels, buckets)
        self._registry.register(histogram)
        return self._kept(histogram, labels)

    def _sampled(self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Iterable[Sample]]) -> None:
        self._registry.register(SampledGauge(f"attnserve_{name}", text, labels, read))

    def _kept(self, metric: MetricT, labels: tuple[str, ...]) -> MetricT:
        if set(_MODEL) <= set(labels):
            self._of_models.append(metric)
        return metric

    def _duration(self, name: str, labels: tuple[str, ...] = _MODEL) -> Histogram:
        """Makes the histogram of an interval between two events."""
        return self._histogram(name, intervals.HELP[f"attnserve_{name}"], SECONDS, labels)
