# SPDX-License-Identifier: Apache-2.0
"""Both sides' percentiles, and the reported cause of a difference."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from attnserve_loadtest import server_side, slo
from attnserve_loadtest.recording import LATE, OUTSIDE, UNARY, Recorder
from attnserve_loadtest.report import compare, save
from attnserve_loadtest.server_side import Reading, difference, quantile

BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


class Server:
    """A histogram of request durations, and readings of it."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._histogram = Histogram(
            "attnserve_request_duration_seconds", "-", ("model", "method"), registry=self._registry, buckets=BUCKETS
        )

    def observe(self, seconds: float, count: int = 1, model: str = "a", method: str = "Translate") -> None:
        for _ in range(count):
            self._histogram.labels(model, method).observe(seconds)

    def read(self) -> Reading:
        return Reading(generate_latest(self._registry).decode())


@pytest.fixture
def server() -> Server:
    return Server()


def test_percentiles_of_what_lies_between_two_readings(server: Server) -> None:
    server.observe(0.4, 1000)
    before = server.read()
    server.observe(0.008, 50)
    server.observe(0.03, 50, model="b")
    server.observe(0.4, 500, method="TranslateStream")
    buckets = difference(before.buckets(UNARY), server.read().buckets(UNARY))
    median, most = quantile(buckets, 0.5), quantile(buckets, 0.75)
    assert median is not None and most is not None
    assert (median.value, median.low, median.high) == pytest.approx((10.0, 5.0, 10.0))
    assert (most.value, most.low, most.high) == pytest.approx((35.0, 20.0, 50.0))
    assert quantile(difference(buckets, buckets), 0.5) is None
    assert quantile({}, 0.5) is None


def test_beyond_the_last_bucket_is_its_bound(server: Server) -> None:
    server.observe(3.0)
    found = quantile(server.read().buckets(UNARY), 0.99)
    assert found is not None
    assert found.value == pytest.approx(500.0)


def seen(
    server: Server, recorder: Recorder, client_ms: float, server_ms: float, *, outside_ms: float = 0.0, late_ms: float = 0.0
) -> str:
    before = server.read()
    for _ in range(100):
        recorder.add(UNARY, client_ms)
        server.observe(server_ms / 1e3)
        recorder.add(UNARY + OUTSIDE, outside_ms)
        recorder.add(UNARY + LATE, late_ms)
    return compare(recorder, before, server.read())[0].reason


def test_reasons(server: Server) -> None:
    assert seen(server, Recorder(), 15.2, 15.0) == ""
    assert "no more than 10 to 20 ms" in seen(server, Recorder(), 19.0, 15.0)
    assert "come on top" in seen(server, Recorder(), 75.0, 15.0, outside_ms=60.0)
    assert "ms of late starts" in seen(server, Recorder(), 75.0, 15.0, outside_ms=20.0, late_ms=40.0)
    assert "not explained" in seen(server, Recorder(), 400.0, 15.0, outside_ms=1.0)


def test_files(tmp_path: Path, server: Server) -> None:
    recorder = Recorder()
    seen(server, recorder, 15.0, 15.0)
    recorder.fail("Translate", "RESOURCE_EXHAUSTED")
    verdicts = slo.judge([slo.parse("p99<1")], recorder)
    save(tmp_path / "new", recorder, compare(recorder, Server().read(), server.read()), verdicts)
    values = json.loads((tmp_path / "new" / "loadtest.json").read_text())
    assert values["errors"] == {"Translate": {"RESOURCE_EXHAUSTED": 1}}
    assert values["objectives"][0]["is_met"] is False
    rows = list(csv.DictReader((tmp_path / "new" / "loadtest.csv").open()))
    assert [(row["event"], row["count"], row["errors"]) for row in rows][0] == ("Translate", "100", "1")
    page = (tmp_path / "new" / "loadtest.html").read_text()
    assert all(text in page for text in ("RESOURCE_EXHAUSTED", "missed", "Clients beside server"))


def test_no_metrics_are_an_error_that_names_the_address() -> None:
    with pytest.raises(OSError, match=r"no metrics at http://127\.0\.0\.1:1/metrics"):
        server_side.read("http://127.0.0.1:1/metrics")
    with pytest.raises(OSError, match="no metrics at nonsense"):
        server_side.read("nonsense")
