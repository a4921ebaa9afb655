# SPDX-License-Identifier: Apache-2.0
"""Ratios of interleaved rounds, bars that can be missed, and the measurements of a client in a closed loop."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from attnserve_client.errors import ToolError
from attnserve_loadtest.bench import servers
from attnserve_loadtest.bench.online import CLOSE, LIMIT_MS, NUM_PROBES, Highest, Passage, Percentiles, WireResult, highest_rate
from attnserve_loadtest.bench.processor import front_seconds, processor_seconds
from attnserve_loadtest.bench.report import Row, markdown, wire_rows
from attnserve_loadtest.bench.rounds import MAX_ATTEMPTS, Cost, Ratio, best_of, interleave, ratio, scatter, steadiest
from attnserve_loadtest.bench.servers import STREAM, UNARY, closed_loop, our_server


def test_rounds_are_interleaved() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: float(order.append(name) or len(order))) for name in "ab"}
    values = interleave(calls, 3, lambda: order.append("."))
    assert "".join(order) == "a.b." * 3
    assert {name: len(each) for name, each in values.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_taken_inside_a_round() -> None:
    """The machine slows down threefold, and both sides with it."""
    assert ratio([2.0, 6.0, 4.0], [1.0, 3.0, 1.0]) == Ratio(2.0, 2.0, 4.0)
    assert best_of({"a": [1.0, 9.0, 9.0], "b": [3.0, 3.0, 30.0]}) == "b"


def test_bars() -> None:
    low, high = Ratio(0.9, 0.8, 1.0), Ratio(1.3, 1.2, 1.4)
    rows = [Row("speed", each, 1.2, 1.5, is_at_most=False, detail="") for each in (low, high)]
    rows += [Row("latency", each, 1.2, 1.5, is_at_most=True, detail="") for each in (low, high)]
    assert [row.is_reached for row in rows] == [False, True, True, False]
    assert "| speed | **0.90** | 0.80-1.00 | ≥ 1.2 |" in markdown(rows)


def test_rounds_that_scatter_are_measured_again_and_the_steadiest_count() -> None:
    wild, middle, calm = [1.0, 2.0, 3.0], [1.0, 1.2, 1.5], [1.0, 1.05, 1.1]
    assert (scatter([2.0]), scatter([1.0] * 5), scatter(wild)) == (0.0, 0.0, 0.5)
    for attempts, found in (([calm], (calm, 1)), ([wild, calm], (calm, 2)), ([wild, middle, wild, calm], (middle, MAX_ATTEMPTS))):
        assert steadiest(iter(attempts).__next__, list) == found


def test_costs_are_added() -> None:
    assert Cost(1.0, 2.0) + Cost(0.5, 0.25) == Cost(1.5, 2.25)


def latency(p99: float) -> Percentiles:
    return Percentiles(1.0, 2.0, p99, 100.0)


@pytest.mark.parametrize("capacity", [90.0, 299.0, 301.0, 1000.0, 4000.0])
def test_highest_rate_is_found_with_few_runs(capacity: float) -> None:
    rates: list[float] = []

    def probe(rate: float) -> Percentiles:
        rates.append(rate)
        return latency(LIMIT_MS if rate <= capacity else LIMIT_MS * 2)

    found = highest_rate(probe)
    assert capacity / CLOSE**2 <= found.rate <= capacity
    assert len(set(rates)) <= NUM_PROBES
    assert len(rates) <= 2 * NUM_PROBES
    assert found.latency == latency(LIMIT_MS)


def test_rate_that_fails_once_is_tried_again() -> None:
    slow = iter([False, True, False])
    assert highest_rate(lambda rate: latency(LIMIT_MS * 2 if rate > 700 or next(slow, False) else 1.0)).rate >= 600


def test_no_rate_may_be_low_enough_or_too_high() -> None:
    assert highest_rate(lambda _: latency(LIMIT_MS * 2)) == Highest(0.0, None)
    assert highest_rate(lambda _: latency(1.0), 10.0).rate == pytest.approx(10.0 * 2.0 ** (NUM_PROBES - 1))


def test_front_that_is_too_slow_misses_its_bar() -> None:
    passages = {name: Passage(1.0, 400.0, 600.0, 200.0) for name in ("in-process", "unary", "streaming")}
    fast, slow = Ratio(499.0, 450.0, 560.0), Ratio(1001.0, 990.0, 1010.0)
    rows = wire_rows(WireResult(Ratio(0.8, 0.7, 0.9), Ratio(0.57, 0.5, 0.6), 800.0, fast, slow, passages, 2))
    assert [row.is_reached for row in rows] == [True, False, True, False]
    assert "| front's processor time, unary call | **499 us** | 450 us-560 us | ≤ 500 |" in markdown(rows)
    assert rows[0].detail.endswith("the steadiest of 2 measurements")


def test_processor_time_of_a_front_is_without_its_workers() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        front, every = front_seconds(process.pid), processor_seconds(process.pid)
        process.kill()
    assert front < 0.9
    assert every - front >= 0.98
    with pytest.raises(ToolError, match="no processor time"):
        front_seconds(process.pid)


BUSY = """
import subprocess, sys, time
burn = "import sys, time\\nwhile time.process_time() < 1.0: pass\\nprint(flush=True); sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline(); print(flush=True); time.sleep(60)
"""
PAUSE_S = 0.5


@pytest.fixture
def address() -> Iterator[str]:
    """A server that answers at once, or with a message at once and a last one after a pause."""

    def stream(_request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"first"
        time.sleep(PAUSE_S)
        yield b"last"

    methods = {
        UNARY: grpc.unary_unary_rpc_method_handler(lambda request, _context: b"answer"),
        STREAM: grpc.unary_stream_rpc_method_handler(stream),
    }

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            return methods.get(handler_call_details.method)

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no bundle in"), our_server(tmp_path, "auto"):
        pass


def test_the_first_message_of_a_stream_is_timed_by_itself(address: str) -> None:
    load = closed_loop(address, ["a"] * 4, STREAM, 2)
    assert load.answers == [b"last"] * 4
    assert len(load.first_messages) == len(load.latencies) == 4
    pauses = [whole - first for first, whole in zip(load.first_messages, load.latencies, strict=True)]
    assert max(pauses) > PAUSE_S / 4, "a busy machine may let a client see both messages at once"
    assert load.first_percentile(0.5) == sorted(load.first_messages)[2]


def test_a_whole_answer_has_no_first_message(address: str) -> None:
    load = closed_loop(address, ["a"] * 3, UNARY, 1)
    assert (load.first_messages, load.answers) == ([], [b"answer"] * 3)
    assert load.percentile(0.99) == max(load.latencies)


def test_several_loads_share_one_collection_of_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    collections: list[int] = []
    gc.unfreeze()  # an earlier test in this process may have left frozen objects
    monkeypatch.setattr(gc, "collect", lambda: collections.append(0) or 0)
    with servers.quiet():
        for _ in range(3):
            with servers.quiet():
                assert gc.get_freeze_count() > 0
    assert len(collections) == 1
    assert gc.get_freeze_count() == 0, "what was frozen stays so"
