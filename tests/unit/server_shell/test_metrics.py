# SPDX-License-Identifier: Apache-2.0
"""Names and labels of the metrics, which model has which, and that the server sets all of them."""

from __future__ import annotations

import ast
import inspect
import math
import os
import time
from pathlib import Path
from types import SimpleNamespace

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

import attnserve_server
from attnserve_server.metrics import intervals, liveness
from attnserve_server.metrics.exposition import Exposition
from attnserve_server.metrics.histogram import Histogram
from attnserve_server.metrics.prometheus import SECONDS, Metrics
from attnserve_server.stats import EngineStats, Measured, RequestStats, RunStats, StepStats
from tests.fakes.clock import Clock

MODEL = {"model": "m", "version": "1"}
LABELS = {
    "attnserve_requests_total": {"model", "method", "code"},
    "attnserve_request_duration_seconds": {"model", "version", "method"},
    "attnserve_image_preparation_duration_seconds": set(MODEL),
    "attnserve_queue_duration_seconds": set(MODEL),
    "attnserve_encode_duration_seconds": set(MODEL),
    "attnserve_decode_duration_seconds": set(MODEL),
    "attnserve_decode_step_duration_seconds": set(MODEL),
    "attnserve_time_to_first_token_seconds": set(MODEL),
    "attnserve_inter_token_latency_seconds": set(MODEL),
    "attnserve_batch_rows": set(MODEL),
    "attnserve_batch_size": set(MODEL),
    "attnserve_run_duration_seconds": set(MODEL),
    "attnserve_window_duration_seconds": set(MODEL),
    "attnserve_slots": {*MODEL, "state"},
    "attnserve_queue_length": set(MODEL),
    "attnserve_queue_seconds": set(MODEL),
    "attnserve_engine_busy_ratio": set(MODEL),
    "attnserve_engine_busy_seconds_total": set(MODEL),
    "attnserve_source_tokens_total": set(MODEL),
    "attnserve_generated_tokens_total": set(MODEL),
    "attnserve_requests_rejected_total": {*MODEL, "reason"},
    "attnserve_requests_cancelled_total": {*MODEL, "reason"},
    "attnserve_refusal_duration_seconds": {*MODEL, "reason"},
    "attnserve_cache_requests_total": {*MODEL, "result"},
    "attnserve_cache_bytes": set(),
    "attnserve_unread_answers_bytes": set(),
    "attnserve_log_lines_dropped_total": set(),
    "attnserve_cache_entries": set(),
    "attnserve_cold_shapes_total": set(MODEL),
    "attnserve_model_ready": set(MODEL),
    "attnserve_model_load_duration_seconds": set(MODEL),
    "attnserve_workers": {"state"},
    "attnserve_worker_deaths_total": {"worker"},
    "attnserve_worker_silence_seconds": {"worker"},
    "attnserve_process_resident_bytes": {"process"},
    "attnserve_process_open_fds": {"process"},
    "attnserve_process_max_fds": {"process"},
    "attnserve_memory_limit_bytes": set(),
    "attnserve_certificate_expiry_timestamp_seconds": {"certificate"},
    "attnserve_reloads_total": {"what"},
    "attnserve_reload_failures_total": {"what"},
    "attnserve_tls_handshakes_total": set(),
    "attnserve_spans_sent_total": set(),
    "attnserve_spans_dropped_total": set(),
    "attnserve_worker_last_message_age_seconds": {"worker"},
    "attnserve_build_info": {"version", "onnxruntime", "python"},
}
"""Names and labels that dashboards, alerts and autoscalers rely on: changing one is a breaking change."""

ONLY_ON_A_GPU = {"attnserve_device_memory_bytes", "attnserve_device_memory_limit_bytes"}
"""Part of the surface, without series elsewhere."""
SERVER = Path(attnserve_server.__file__).parent


def report(
    *steps: StepStats, used: int = 0, waiting: int = 0, busy_s: float = 0.0, cancelled: dict[str, int] | None = None
) -> EngineStats:
    return EngineStats("m", "1", list(steps), 32, used, waiting, busy_s, 1.0, cancelled or {})


def run_report(*runs: RunStats, waiting: int = 0) -> EngineStats:
    """A report on a single-pass model."""
    return EngineStats("p", "1", [], 0, 0, waiting, 0.5, 1.0, runs=list(runs))


def answered(**changes: object) -> RequestStats:
    values = {"queue_s": 0.1, "encode_s": 0.2, "decode_s": 0.3, "time_to_first_token_s": 0.4} | changes
    return RequestStats("m", "1", num_source_tokens=7, num_generated_tokens=9, **values)  # type: ignore[arg-type]


def touch_everything(metrics: Metrics) -> None:
    metrics.request_done("m", "1", "Translate", "OK", 0.1)
    metrics.request_rejected("m", "1", "overloaded")
    metrics.request_refused("m", "1", "overloaded", 0.001)
    metrics.image_prepared("m", "1", 0.01)
    metrics.cache_request("m", "1", "hit")
    metrics.answered(answered(inter_token_s=[0.1]))
    metrics.engine("w0", report(StepStats(4, 0.001, is_cold=True), cancelled={"client": 1}))
    metrics.register_model("p", "1", Measured.RUNS)
    metrics.engine("w0", run_report(RunStats(0.001, [0.1])))
    metrics.set_model_ready("m", "1", True)
    metrics.set_queue("m", "1", 1, time.monotonic())
    metrics.watch_answers(lambda: 10)
    metrics.model_loaded("m", "1", 1.5)
    metrics.liveness.watch(1, lambda: {"w0": os.getpid()}, lambda: {"w0"})
    metrics.processes.watch(lambda: {"w0": os.getpid()})
    metrics.liveness.heard("w0")
    metrics.build_info("0.1.0", "1.31.1")
    metrics.trust.set_expiry("server", 1.8e9)
    metrics.trust.reloaded("tokens")
    metrics.trust.reload_failed("tokens")
    metrics.trust.handshake()


ALL_MODELS = {
    *("attnserve_queue_duration_seconds", "attnserve_queue_length", "attnserve_queue_seconds"),
    *("attnserve_engine_busy_ratio", "attnserve_engine_busy_seconds", "attnserve_cold_shapes"),
}
OF_STEPS = {
    *("attnserve_encode_duration_seconds", "attnserve_decode_duration_seconds", "attnserve_decode_step_duration_seconds"),
    *("attnserve_time_to_first_token_seconds", "attnserve_inter_token_latency_seconds", "attnserve_batch_rows", "attnserve_slots"),
    *("attnserve_source_tokens", "attnserve_generated_tokens"),
}
OF_RUNS = {"attnserve_batch_size", "attnserve_run_duration_seconds", "attnserve_window_duration_seconds"}


def names_of(registry: CollectorRegistry, model: str) -> set[str]:
    """Metrics that have series of a model."""
    return {family.name for family in registry.collect() if any(each.labels.get("model") == model for each in family.samples)}


def test_model_has_the_metrics_of_its_engine_and_no_others(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.register_model("m", "1")
    metrics.register_model("p", "1", Measured.RUNS)
    fixed = {"attnserve_model_ready"}
    assert names_of(registry, "m") == ALL_MODELS | OF_STEPS | fixed
    assert names_of(registry, "p") == ALL_MODELS | OF_RUNS | fixed
    metrics.answered(RequestStats("p", "1", 0.25, 0.2, 0.0, 0.5, 450, 0))
    metrics.engine("w0", run_report(RunStats(0.2, [0.01, 0.02, 0.0]), RunStats(0.1, [0.5], is_cold=True), waiting=2))
    assert names_of(registry, "p") == ALL_MODELS | OF_RUNS | fixed

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"attnserve_{name}", {"model": "p", "version": "1"})

    assert (value("batch_size_count"), value("batch_size_sum")) == (2, 4)
    assert value("run_duration_seconds_sum") == pytest.approx(0.3)
    assert (value("window_duration_seconds_count"), value("window_duration_seconds_sum")) == (4, pytest.approx(0.53))
    assert (value("queue_duration_seconds_sum"), value("queue_length"), value("cold_shapes_total")) == (0.25, 2, 1)
    metrics.forget_worker("w0")
    assert (value("queue_length"), value("engine_busy_ratio")) == (0, 0)
    metrics.forget_model("p", "1")
    assert names_of(registry, "p") == set()


def test_workers_that_live_and_when_they_spoke(
    metrics: Metrics, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    living, clock = {"worker-0.0": 1, "worker-1.0": 1}, Clock()
    monkeypatch.setattr(liveness, "time", SimpleNamespace(monotonic=clock))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"attnserve_{name}", labels)

    metrics.liveness.watch(2, lambda: living, lambda: {"worker-0.0"})
    metrics.liveness.heard("worker-0.0")
    clock.now += 2
    metrics.liveness.heard("worker-1.0")
    assert [value("worker_last_message_age_seconds", worker=name) for name in ("worker-0", "worker-1")] == [2, 0]
    metrics.liveness.heard("worker-0.0")
    assert value("worker_last_message_age_seconds", worker="worker-0") == 0
    del living["worker-0.0"]
    metrics.forget_worker("worker-0.0")
    assert (value("workers", state="live"), value("workers", state="expected")) == (1, 2)
    assert value("worker_last_message_age_seconds", worker="worker-0") is None
    metrics.liveness.heard("worker-0.1")
    assert value("worker_last_message_age_seconds", worker="worker-0") is not None


def test_names_and_labels_are_pinned(metrics: Metrics, registry: CollectorRegistry) -> None:
    touch_everything(metrics)
    found: dict[str, set[str]] = {}
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                name = sample.name
                if family.type == "histogram":
                    name = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
                found.setdefault(name, set()).update(set(sample.labels) - {"le"})
    assert found == LABELS
    assert {family.name for family in registry.collect() if not family.samples} == ONLY_ON_A_GPU


def uncalled(metrics: type[Metrics]) -> set[str]:
    """Public methods without a call in the server."""
    called = {
        node.func.attr
        for file in SERVER.rglob("*.py")
        if file.name != "prometheus.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    members = {name: member for each in metrics.__mro__ for name, member in vars(each).items()}
    return {name for name, member in members.items() if inspect.isfunction(member) and not name.startswith("_")} - called


def test_every_metric_is_set_by_the_server() -> None:
    assert uncalled(Metrics) == set()


def test_metric_that_only_a_test_sets_is_seen() -> None:
    class More(Metrics):
        def set_device_memory(self) -> None: ...

    assert uncalled(More) == {"set_device_memory"}


def test_help_is_taken_from_the_intervals(registry: CollectorRegistry, metrics: Metrics) -> None:
    del metrics
    texts = {family.name: family.documentation for family in registry.collect()}
    assert {name: texts[name] for name in intervals.HELP} == intervals.HELP
    assert all(name.startswith("attnserve_") for name in texts)


def test_intervals_run_forward() -> None:
    order = list(intervals.Event)
    assert all(order.index(interval.begin) <= order.index(interval.end) for interval in intervals.INTERVALS)


def test_buckets_start_at_100_microseconds() -> None:
    assert SECONDS[0] == 1e-4
    assert list(SECONDS) == sorted(set(SECONDS))


def test_histogram_counts_as_that_of_the_library_does() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("h", "a text", ("model", "reason"), SECONDS)
    ours.register(histogram)
    reference = prometheus_client.Histogram("h", "a text", ("model", "reason"), buckets=SECONDS, registry=theirs)
    for labels in (("m", "a"), ("m", "b"), ("n", "a")):
        for value in (0.0, 1e-4, 1.1e-4, 0.3, SECONDS[-1], 1000.0, math.inf):
            histogram.labels(*labels).observe(value)
            reference.labels(*labels).observe(value)
    histogram.remove_by_labels({"model": "m", "reason": "b"})
    reference.remove_by_labels({"model": "m", "reason": "b"})
    Exposition(theirs)  # without series of creation times
    assert generate_latest(ours) == generate_latest(theirs)
    assert b'h_bucket{le="0.0001",model="m",reason="a"} 2.0' in generate_latest(ours)


def test_histogram_with_a_name_that_is_taken_is_refused(registry: CollectorRegistry) -> None:
    registry.register(Histogram("h", "", (), (1.0,)))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        prometheus_client.Counter("h_count", "", registry=registry)
