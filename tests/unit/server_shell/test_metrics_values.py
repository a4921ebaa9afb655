# SPDX-License-Identifier: Apache-2.0
"""Values of the metrics after observations, and series that begin and end with their model."""

from __future__ import annotations

import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.stats import StepStats
from tests.unit.server_shell.test_metrics import MODEL, answered, report, touch_everything


def test_a_request(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.request_done("m", "1", "Translate", "OK", 0.25)
    metrics.answered(answered(inter_token_s=[0.01, 0.02]))
    value = registry.get_sample_value
    assert value("attnserve_requests_total", {"model": "m", "method": "Translate", "code": "OK"}) == 1
    assert value("attnserve_request_duration_seconds_sum", {**MODEL, "method": "Translate"}) == 0.25
    assert value("attnserve_queue_duration_seconds_sum", MODEL) == 0.1
    assert value("attnserve_encode_duration_seconds_sum", MODEL) == 0.2
    assert value("attnserve_decode_duration_seconds_sum", MODEL) == 0.3
    assert value("attnserve_time_to_first_token_seconds_sum", MODEL) == 0.4
    assert value("attnserve_inter_token_latency_seconds_count", MODEL) == 2
    assert value("attnserve_source_tokens_total", MODEL) == 7
    assert value("attnserve_generated_tokens_total", MODEL) == 9


def test_an_unknown_model_is_no_label(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.request_done("", "", "Translate", "NOT_FOUND", 0.001)
    metrics.request_rejected("", "", "model_not_found")
    assert (
        registry.get_sample_value("attnserve_requests_total", {"model": "unknown", "method": "Translate", "code": "NOT_FOUND"}) == 1
    )
    labels = {"model": "unknown", "version": "", "reason": "model_not_found"}
    assert registry.get_sample_value("attnserve_requests_rejected_total", labels) == 1


def test_refusals_and_the_cache(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.request_refused("m", "1", "overloaded", 0.002)
    metrics.request_refused("", "", "model_not_found", 0.001)
    for result in ("hit", "hit", "miss", "coalesced"):
        metrics.cache_request("m", "1", result)
    metrics.set_cache(1234, 5)
    value = registry.get_sample_value
    assert value("attnserve_refusal_duration_seconds_sum", {**MODEL, "reason": "overloaded"}) == 0.002
    assert value("attnserve_refusal_duration_seconds_count", {"model": "unknown", "version": "", "reason": "model_not_found"}) == 1
    assert [value("attnserve_cache_requests_total", {**MODEL, "result": each}) for each in ("hit", "miss", "coalesced")] == [
        2,
        1,
        1,
    ]
    assert (value("attnserve_cache_bytes"), value("attnserve_cache_entries")) == (1234, 5)


def test_steps(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.engine("w0", report(StepStats(4, 0.001), StepStats(0, 0.0, 1, 0.002), StepStats(8, 0.003, is_cold=True)))
    value = registry.get_sample_value
    assert value("attnserve_decode_step_duration_seconds_count", MODEL) == 2
    assert value("attnserve_decode_step_duration_seconds_sum", MODEL) == 0.004
    assert value("attnserve_batch_rows_sum", MODEL) == 12
    assert value("attnserve_batch_rows_bucket", {**MODEL, "le": "4.0"}) == 1
    assert value("attnserve_cold_shapes_total", MODEL) == 1


def test_cancellations_inside_and_outside_the_engines(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.engine("w0", report(cancelled={"client": 2, "deadline": 1}))
    metrics.request_cancelled("m", "1", "client")
    assert registry.get_sample_value("attnserve_requests_cancelled_total", {**MODEL, "reason": "client"}) == 3
    assert registry.get_sample_value("attnserve_requests_cancelled_total", {**MODEL, "reason": "deadline"}) == 1


def test_gauges_are_of_all_workers_together(metrics: Metrics, registry: CollectorRegistry) -> None:
    def gauges() -> list[float | None]:
        value = registry.get_sample_value
        slots = [value("attnserve_slots", {**MODEL, "state": state}) for state in ("used", "free")]
        return [*slots, value("attnserve_queue_length", MODEL), value("attnserve_engine_busy_ratio", MODEL)]

    metrics.engine("w0", report(used=30, waiting=2, busy_s=1.0))
    metrics.engine("w1", report(used=10, waiting=1, busy_s=0.5))
    metrics.set_queue("m", "1", 5, time.monotonic())
    assert gauges() == [40, 24, 8, 0.75]
    metrics.engine("w1", report(used=0, waiting=0, busy_s=0.0))
    assert gauges() == [30, 34, 7, 0.5]
    metrics.forget_worker("w0")
    assert gauges() == [0, 32, 5, 0.0]
    metrics.forget_worker("w0")
    metrics.forget_worker("w1")
    assert gauges() == [0, 0, 5, 0.0]
    assert registry.get_sample_value("attnserve_engine_busy_seconds_total", MODEL) == 1.5


def test_a_registered_model_has_its_series_at_zero(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.register_model("m", "1")
    for name in (
        "attnserve_model_ready",
        "attnserve_queue_length",
        "attnserve_batch_rows_count",
        "attnserve_generated_tokens_total",
    ):
        assert registry.get_sample_value(name, MODEL) == 0


@pytest.mark.load
def test_reports_are_cheap(metrics: Metrics) -> None:
    """Ten steps per report, a thousand reports: 10,000 steps, more than 10 s of work at several hundred steps per second."""
    stats = report(*(StepStats(8, 0.001) for _ in range(10)))
    begin = time.process_time()
    for _ in range(1000):
        metrics.engine("w0", stats)
    assert time.process_time() - begin < 1.0


def test_exposition_can_be_rendered(metrics: Metrics, registry: CollectorRegistry) -> None:
    touch_everything(metrics)
    assert b'attnserve_build_info{onnxruntime="1.31.1"' in generate_latest(registry)


def test_model_that_is_no_longer_served_has_no_series(metrics: Metrics, registry: CollectorRegistry) -> None:
    def models() -> set[str]:
        return {
            sample.labels["model"]
            for family in registry.collect()
            for sample in family.samples
            if "version" in sample.labels and "model" in sample.labels
        }

    touch_everything(metrics)
    metrics.register_model("other", "1")
    metrics.set_queue("m", "1", 3, None)
    assert models() == {"m", "p", "other"}
    metrics.forget_model("p", "1")
    metrics.forget_model("m", "1")
    assert models() == {"other"}
    metrics.forget_worker("w0")
    assert models() == {"other"}, "a report that is forgotten brings nothing back"
    touch_everything(metrics)
    assert models() == {"m", "p", "other"}
    metrics.forget_model("p", "1")
