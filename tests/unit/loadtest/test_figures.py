# SPDX-License-Identifier: Apache-2.0
"""The load test's own arithmetic: percentiles, objectives, and the server's histograms."""

from __future__ import annotations

import http.server
import random
import threading
from collections.abc import Iterator

import pytest

from attnserve_loadtest import server_side, slo
from attnserve_loadtest.percentiles import GROWTH, Latencies
from attnserve_loadtest.server_side import Histogram
from attnserve_loadtest.texts import read_texts


def test_percentiles_are_within_half_a_percent() -> None:
    rng, latencies = random.Random(1), Latencies()
    values = sorted(rng.lognormvariate(-6, 1.5) for _ in range(5000))
    for value in values:
        latencies.add(value)
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        exact = values[min(len(values) - 1, max(0, round(share * len(values)) - 1))]
        assert latencies.percentile(share) == pytest.approx(exact, rel=GROWTH - 1)
    assert latencies.mean == pytest.approx(sum(values) / len(values))
    assert len(latencies) == 5000


def test_latencies_of_several_processes_add_up() -> None:
    whole, parts = Latencies(), [Latencies(), Latencies()]
    for index in range(100):
        whole.add(index * 1e-4)
        parts[index % 2].add(index * 1e-4)
    together = Latencies()
    for part in parts:
        together.merge(Latencies.from_wire(part.to_wire()))
    assert together.to_wire()[0] == whole.to_wire()[0]
    assert together.mean == pytest.approx(whole.mean)
    assert Latencies().percentile(0.5) == Latencies().mean == 0.0


MEASURED = slo.Measured({50.0: 12.0, 99.9: 80.0}, 15.0, 200.0, 0.02)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("Translate:p50<12.5", True),
        ("Translate:p50<12", False),
        ("Translate:p99.9<79", False),
        ("Translate:mean<16", True),
        ("Translate:rate>199", True),
        ("Translate:rate>200", False),
        (" TranslateStream first piece:failures<0.01", False),
    ],
)
def test_objectives(text: str, holds: bool) -> None:
    objective = slo.parse(text)
    assert objective.holds(MEASURED) is holds
    assert slo.parse(str(objective)) == objective


@pytest.mark.parametrize(
    "text", ["Translate", "Translate:p50", "Translate:p50=3", "Translate:p101<3", "Translate:speed>3", ":p50<1", ""]
)
def test_what_is_no_objective(text: str) -> None:
    with pytest.raises(ValueError, match="is no objective"):
        slo.parse(text)


def test_percentile_of_a_histogram() -> None:
    inf = float("inf")
    later, earlier = Histogram({0.1: 30.0, 0.2: 50.0, inf: 60.0}), Histogram({0.1: 10.0, 0.2: 10.0, inf: 10.0})
    difference = later - earlier  # 20 up to 0.1, 20 more up to 0.2, 10 above
    assert difference.total == 50
    assert difference.percentile(0.2) == pytest.approx(0.05)
    assert difference.percentile(0.6) == pytest.approx(0.15)
    assert difference.percentile(0.99) == 0.2, "no more is known of what lies above the last bound"
    assert Histogram({}).percentile(0.5) == 0.0


TEXT = b"""# TYPE attnserve_request_duration_seconds histogram
attnserve_request_duration_seconds_bucket{method="Translate",model="a",le="0.1"} 3
attnserve_request_duration_seconds_bucket{method="Translate",model="a",le="+Inf"} 4
attnserve_request_duration_seconds_bucket{method="Translate",model="b",le="0.1"} 1
attnserve_request_duration_seconds_bucket{method="Translate",model="b",le="+Inf"} 1
attnserve_request_duration_seconds_bucket{method="TranslateStream",model="a",le="0.1"} 7
attnserve_request_duration_seconds_bucket{method="TranslateStream",model="a",le="+Inf"} 7
"""


@pytest.fixture
def metrics() -> Iterator[str]:
    class Metrics(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(TEXT)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    web = http.server.HTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}/metrics"
    web.shutdown()
    web.server_close()


def test_server_s_histograms_are_summed_over_models(metrics: str) -> None:
    found = server_side.read(metrics)
    assert found["Translate"].counts == {0.1: 4.0, float("inf"): 5.0}
    assert found["TranslateStream"].total == 7
    assert found["TranslateStream first piece"].total == 0


def test_texts() -> None:
    assert len(read_texts()) > 100
    with pytest.raises(OSError, match="nowhere"):
        read_texts("/nowhere.txt")
