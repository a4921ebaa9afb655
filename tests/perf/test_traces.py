# SPDX-License-Identifier: Apache-2.0
"""Processor time of the front that traces take, over 20,000 requests, with an OTLP receiver in another process."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from attnserve.v1 import manifest_pb2
from attnserve_server.dataplane import ends
from attnserve_server.dataplane.accounts import Accounts
from attnserve_server.dataplane.call import Call
from attnserve_server.dataplane.ends import Ends
from attnserve_server.metrics import otlp
from attnserve_server.metrics.ended import Ended, MethodName
from attnserve_server.metrics.otlp import OtlpSpans
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.metrics.timings import Timings
from attnserve_server.metrics.trace_context import Trace
from attnserve_server.metrics.traces import Traces
from attnserve_server.tasks.registry import TRANSLATION
from tests.fakes.dataplane import letters_model

NUM = 20_000
PACE = 100
"""Requests after which the exporter's thread gets time: so many fit its queue."""
TRACED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
BARS_US = {0.01: 10.0, 1.0: 130.0}
NAME = MethodName(TRANSLATION.service, "Translate")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A receiver, which has received spans when the module ends."""
    command = [sys.executable, "-m", "tests.fakes.otlp"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()
        assert int(process.stdout.read()) >= NUM


@pytest.fixture(autouse=True)
def _no_lines() -> Iterator[None]:
    """A request's log line is not part of what traces cost."""
    logger = logging.getLogger("attnserve_server.dataplane")
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(logging.NOTSET)


def call_of(model: Any, traceparent: str) -> Call:
    """An answered request."""
    call = Call("0123456789abcdef" * 2, "127.0.0.1")
    call.model, call.spec, call.traceparent = model, TRANSLATION, traceparent
    call.queued_at, call.num_parts, call.num_rows, call.num_source, call.num_generated = call.received_at, 1, 4, 12, 11
    call.timings = Timings(0.0, 0.001, 0.002, 0.01, 0.015, 0.005)
    return call


def cost_us(traces: Traces | None, traceparent: str = "") -> float:
    """Processor time of this process for the end of a request, with what its threads need to send all spans, in microseconds."""
    accounts = Accounts(NAME, Metrics(CollectorRegistry()), lambda: False, Ends(traces=traces))
    model = letters_model()
    assert model.manifest.task == manifest_pb2.TASK_TRANSLATION
    began = time.process_time()
    for number in range(NUM):
        accounts.answered(call_of(model, traceparent))
        if traces is not None and number % PACE == 0:
            time.sleep(0.01)
    if traces is not None:
        traces.close(10)
    return (time.process_time() - began) / NUM * 1e6


def added_us(address: str, ratio: float, make: Callable[[OtlpSpans, float], Traces] = Traces, traceparent: str = "") -> float:
    """What traces add to the end of a request; no span may be lost."""
    collectors = CollectorRegistry()
    spans = OtlpSpans(address, Metrics(collectors).spans)
    found_us = cost_us(make(spans, ratio), traceparent) - cost_us(None)
    assert collectors.get_sample_value("attnserve_spans_dropped_total") == 0
    print(f"ratio {ratio:g}{' of a caller' * bool(traceparent)}: {found_us:.1f} us")
    return found_us


@pytest.mark.parametrize("ratio", BARS_US)
def test_traces_cost_little(address: str, ratio: float) -> None:
    assert added_us(address, ratio) <= BARS_US[ratio]


@pytest.mark.parametrize(("flags", "bar_us"), [("00", BARS_US[0.01]), ("01", BARS_US[1.0])])
def test_traces_of_callers_cost_little(address: str, flags: str, bar_us: float) -> None:
    assert added_us(address, 0.01, traceparent=TRACED + flags) <= bar_us


class _Eager(Traces):
    """Makes the spans of all requests before it decides: the fault that the bar of 1 % is for."""

    def of(self, traceparent: str) -> Trace:
        trace = super().of(traceparent)
        return trace if trace.is_sampled else Trace(1, 0, True)


def test_span_of_every_request_breaks_the_bar_of_one_percent(address: str) -> None:
    assert added_us(address, 0.01, _Eager) > BARS_US[0.01]


class _SpansOfPhases(Traces):
    """Makes a span of each phase beside the request's: the fault that the bar of all is for."""

    def add(self, trace: Trace, ended: Ended) -> None:
        super().add(trace, ended)
        for _ in ended.events():
            super().add(trace, ended)


def test_spans_of_phases_break_the_bar_of_all(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "MAX_QUEUED", NUM * 10)
    assert added_us(address, 1.0, _SpansOfPhases) > BARS_US[1.0]


def test_traces_that_are_off_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise AssertionError("nothing of a trace may be made")

    monkeypatch.setattr(Traces, "of", fail)
    monkeypatch.setattr(ends, "Ended", fail)
    assert cost_us(None) < BARS_US[0.01]
