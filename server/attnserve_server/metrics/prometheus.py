# SPDX-License-Identifier: Apache-2.0
"""Every Prometheus object of the server, in one class. ``app.py`` makes it; front and transport call it; nothing else knows it.

Names are part of the contract (a test pins them). All methods are cheap and may be called from any thread but :meth:`engine`,
:meth:`forget_worker` and :meth:`set_queue_length`, which belong on one.
"""

from __future__ import annotations

import platform

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from attnserve_server.metrics.intervals import HELP
from attnserve_server.stats import EngineStats, RequestStats

UNKNOWN = "unknown"
"""The label of requests for models that are not served: names from outside would make labels without bound."""

DURATIONS = tuple(digit * 10.0**power for power in range(-4, 2) for digit in (1, 2, 5))
DURATION_BUCKETS = tuple(round(bound, 6) for bound in DURATIONS)
"""100 µs to 50 s, three a decade."""

ROW_BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)

_MODEL = ("model", "version")


class _ModelMetrics:
    """The children of one model and version, looked up once: ``labels()`` costs more than the observation."""

    def __init__(self, metrics: Metrics, labels: tuple[str, str]) -> None:
        self.queue = metrics.queue_duration.labels(*labels)
        self.encode = metrics.encode_duration.labels(*labels)
        self.decode = metrics.decode_duration.labels(*labels)
        self.step = metrics.decode_step_duration.labels(*labels)
        self.first_token = metrics.time_to_first_token.labels(*labels)
        self.inter_token = metrics.inter_token_latency.labels(*labels)
        self.rows = metrics.batch_rows.labels(*labels)
        self.source_tokens = metrics.source_tokens.labels(*labels)
        self.generated_tokens = metrics.generated_tokens.labels(*labels)
        self.cold_shapes = metrics.cold_shapes.labels(*labels)
        self.slots_used = metrics.slots.labels(*labels, "used")
        self.slots_free = metrics.slots.labels(*labels, "free")
        self.queue_length = metrics.queue_length.labels(*labels)
        self.busy_ratio = metrics.engine_busy_ratio.labels(*labels)
        self.front_waiting = 0
        self.workers: dict[str, EngineStats] = {}


class Metrics:
    """All metrics.

    A model and version must be made known by :meth:`register_model` (or :meth:`set_model_ready`, :meth:`model_loaded`) before
    it has labels of its own; whatever is not known is counted under "unknown".

    Args:
        registry: where the metrics are registered; each test has its own.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._models: dict[tuple[str, str], _ModelMetrics] = {}
        self._make_request_metrics()
        self._make_engine_metrics()
        self._make_server_metrics()

    def _make_request_metrics(self) -> None:
        self.requests = self._counter("requests_total", "RPCs answered, by status code.", *_MODEL, "method", "code")
        self.request_duration = self._histogram("request_duration_seconds", *_MODEL, "method")
        self.rejected = self._counter("requests_rejected_total", "Requests refused before they were queued.", *_MODEL, "reason")
        self.cancelled = self._counter("requests_cancelled_total", "Requests dropped from queue or batch.", *_MODEL, "reason")
        self.queue_duration = self._histogram("queue_duration_seconds", *_MODEL)
        self.encode_duration = self._histogram("encode_duration_seconds", *_MODEL)
        self.decode_duration = self._histogram("decode_duration_seconds", *_MODEL)
        self.time_to_first_token = self._histogram("time_to_first_token_seconds", *_MODEL)
        self.inter_token_latency = self._histogram("inter_token_latency_seconds", *_MODEL)
        self.source_tokens = self._counter("source_tokens_total", "Source tokens of answered requests.", *_MODEL)
        self.generated_tokens = self._counter("generated_tokens_total", "Tokens of answered requests' answers.", *_MODEL)

    def _make_engine_metrics(self) -> None:
        self.decode_step_duration = self._histogram("decode_step_duration_seconds", *_MODEL)
        self.batch_rows = Histogram(
            "attnserve_batch_rows", "Rows of a decode step.", _MODEL, registry=self.registry, buckets=ROW_BUCKETS
        )
        self.slots = self._gauge("slots", "Slots of all workers, used and free.", *_MODEL, "state")
        self.queue_length = self._gauge("queue_length", "Requests that wait for slots.", *_MODEL)
        self.engine_busy_ratio = self._gauge("engine_busy_ratio", "Part of the time spent in iterations, mean of workers.", *_MODEL)
        self.cold_shapes = self._counter("cold_shapes_total", "Steps with a shape that warm-up had not seen.", *_MODEL)

    def _make_server_metrics(self) -> None:
        self.model_ready = self._gauge("model_ready", "1 where at least one worker is warm.", *_MODEL)
        self.model_load_duration = self._gauge("model_load_duration_seconds", "The last load with its warm-up, in seconds.", *_MODEL)
        self.device_memory = self._gauge("device_memory_bytes", "Memory of a device that is in use.", "device")
        self.build = self._gauge("build_info", "Always 1; the labels say what runs.", "version", "python", "onnxruntime")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"attnserve_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"attnserve_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, *labels: str) -> Histogram:
        name = f"attnserve_{name}"
        return Histogram(name, HELP[name], labels, registry=self.registry, buckets=DURATION_BUCKETS)

    def register_model(self, model: str, version: str) -> None:
        """Makes a model known; its series exist from then on, at zero."""
        if (model, version) not in self._models:
            self._models[model, version] = _ModelMetrics(self, (model, version))
            self.model_ready.labels(model, version)

    def request_done(self, model: str, version: str, method: str, code: str, duration_s: float) -> None:
        """Counts one RPC; ``code`` is the name of its gRPC status."""
        labels = self._labels(model, version)
        self.requests.labels(*labels, method, code).inc()
        self.request_duration.labels(*labels, method).observe(duration_s)

    def request_rejected(self, model: str, version: str, reason: str) -> None:
        """Counts a request that was refused before it was queued, by the error's reason."""
        self.rejected.labels(*self._labels(model, version), reason).inc()

    def request_cancelled(self, model: str, version: str, reason: str, count: int = 1) -> None:
        """Counts requests that were dropped from the queue or the batch: "client", "deadline" …"""
        self.cancelled.labels(*self._labels(model, version), reason).inc(count)

    def answered(self, stats: RequestStats) -> None:
        """Observes one answered request."""
        model = self._model(stats.model, stats.version)
        model.queue.observe(stats.queue_s)
        model.encode.observe(stats.encode_s)
        model.decode.observe(stats.decode_s)
        model.first_token.observe(stats.time_to_first_token_s)
        model.source_tokens.inc(stats.num_source_tokens)
        model.generated_tokens.inc(stats.num_generated_tokens)
        observe = model.inter_token.observe
        for gap_s in stats.inter_token_s:
            observe(gap_s)

    def engine(self, worker_id: str, stats: EngineStats) -> None:
        """Takes a worker's report: its steps, what it dropped, and its slots, which are summed over workers."""
        model = self._model(stats.model, stats.version)
        observe_step, observe_rows, num_cold = model.step.observe, model.rows.observe, 0
        for step in stats.steps:
            if step.num_rows:
                observe_step(step.step_s)
                observe_rows(step.num_rows)
            num_cold += step.is_cold
        if num_cold:
            model.cold_shapes.inc(num_cold)
        for reason, count in stats.cancelled.items():
            self.request_cancelled(stats.model, stats.version, reason, count)
        stats.steps, stats.cancelled = [], {}  # only the gauges' part is kept
        model.workers[worker_id] = stats
        _aggregate(model)

    def forget_worker(self, worker_id: str) -> None:
        """Takes a dead worker out of the gauges."""
        for model in self._models.values():
            if model.workers.pop(worker_id, None) is not None:
                _aggregate(model)

    def set_queue_length(self, model: str, version: str, num_waiting: int) -> None:
        """Sets how many requests wait in the front; those that wait in workers are added from their reports."""
        metrics = self._model(model, version)
        metrics.front_waiting = num_waiting
        metrics.queue_length.set(num_waiting + sum(stats.num_waiting for stats in metrics.workers.values()))

    def set_model_ready(self, model: str, version: str, is_ready: bool) -> None:
        """Says whether a model answers; makes it known."""
        self.register_model(model, version)
        self.model_ready.labels(model, version).set(is_ready)

    def model_loaded(self, model: str, version: str, duration_s: float) -> None:
        """Says how long a model took to load and warm up; makes it known."""
        self.register_model(model, version)
        self.model_load_duration.labels(model, version).set(duration_s)

    def set_device_memory(self, device: str, num_bytes: int) -> None:
        """Sets the memory in use of a device ("cpu", "cuda:0")."""
        self.device_memory.labels(device).set(num_bytes)

    def build_info(self, version: str, onnxruntime: str) -> None:
        """Says what runs: versions of attnserve and of ONNX Runtime, beside Python's."""
        self.build.labels(version, platform.python_version(), onnxruntime).set(1)

    def _labels(self, model: str, version: str) -> tuple[str, str]:
        return (model, version) if (model, version) in self._models else (UNKNOWN, UNKNOWN)

    def _model(self, model: str, version: str) -> _ModelMetrics:
        found = self._models.get((model, version))
        if found is None:
            self.register_model(UNKNOWN, UNKNOWN)
            return self._models[UNKNOWN, UNKNOWN]
        return found


def _aggregate(model: _ModelMetrics) -> None:
    reports = model.workers.values()
    num_used = sum(report.num_slots_used for report in reports)
    model.slots_used.set(num_used)
    model.slots_free.set(sum(report.num_slots for report in reports) - num_used)
    model.queue_length.set(model.front_waiting + sum(report.num_waiting for report in reports))
    ratios = [min(1.0, report.busy_s / report.elapsed_s) for report in reports if report.elapsed_s > 0]
    model.busy_ratio.set(sum(ratios) / len(ratios) if ratios else 0.0)
