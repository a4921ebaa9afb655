# SPDX-License-Identifier: Apache-2.0
"""Spans of requests: whose trace they continue, which ones are sent, what they say, and what happens without a receiver."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest

from attnserve.v1 import translation_pb2
from attnserve_server import errors
from attnserve_server.config import ServerConfig, load_config
from attnserve_server.config_trace import TraceConfig
from attnserve_server.dataplane.ends import Ends
from attnserve_server.metrics import otlp
from attnserve_server.metrics.ended import Ended, MethodName
from attnserve_server.metrics.otlp import OtlpSpans
from attnserve_server.metrics.timings import Timings
from attnserve_server.metrics.trace_context import NO_TRACE, Trace, parse_traceparent
from attnserve_server.metrics.traces import Traces, open_traces
from tests.fakes.otlp import OtlpServer, Receiver, attributes
from tests.unit.server_shell.conftest import ShellFactory, until

TRACE_ID, PARENT_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
SAMPLED = f"00-{TRACE_ID:032x}-{PARENT_ID:016x}-01"
NOT_SAMPLED = SAMPLED[:-1] + "0"
NOBODY = "http://127.0.0.1:1"


@dataclass
class Counts:
    """Counts spans, as the metrics do."""

    num_sent: int = 0
    num_dropped: int = 0

    def sent(self, number: int) -> None:
        self.num_sent += number

    def dropped(self, number: int) -> None:
        self.num_dropped += number


class Kept:
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.added: list[tuple[Trace, Ended]] = []

    def add(self, trace: Trace, ended: Ended) -> None:
        self.added.append((trace, ended))

    def close(self, timeout_s: float) -> None:
        del timeout_s


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with OtlpServer() as receiver:
        yield receiver


def ended(code: str = "OK", *, is_single_pass: bool = False, timings: Timings | None = None) -> Ended:
    """A request that was received at second 100, queued at 100.5 and answered at 103."""
    name = MethodName("attnserve.v1.TranslationService", "Translate")
    model = ("m", "1")
    return Ended(name, "id-1", "me", code, "-", model, "translation", 100, 103, 100.5, timings, is_single_pass, 2, 4, 12, 11)


TIMINGS = Timings(0.5, 0.25, 0.25, 1.0, 3.0, first_token_s=0.75, window_s=0.125)


# --- The caller's trace ---


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        SAMPLED.upper(),
        SAMPLED[:-1],
        SAMPLED + "0",
        SAMPLED + "-more",
        "ff" + SAMPLED[2:],
        SAMPLED.replace(f"{TRACE_ID:032x}", "0" * 32),
        SAMPLED.replace(f"{PARENT_ID:016x}", "0" * 16),
        SAMPLED + "\n",
    ],
)
def test_traceparent_that_is_wrong_is_none(value: str) -> None:
    assert parse_traceparent(value) is None


@pytest.mark.parametrize(
    ("value", "is_sampled"),
    [(SAMPLED, True), (NOT_SAMPLED, False), (SAMPLED[:-2] + "fe", False), ("cc" + SAMPLED[2:] + "-new", True)],
)
def test_traceparent_names_trace_span_and_choice(value: str, is_sampled: bool) -> None:
    assert parse_traceparent(value) == Trace(TRACE_ID, PARENT_ID, is_sampled)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_caller_decides_about_its_own_trace(ratio: float) -> None:
    traces = Traces(Kept(), ratio)
    assert [traces.of(value).is_sampled for value in (SAMPLED, NOT_SAMPLED)] == [True, False]


def test_wrong_traceparent_begins_a_new_trace() -> None:
    trace = Traces(Kept(), 1.0).of("nonsense")
    assert trace.is_sampled and trace.parent_id == 0 and trace.trace_id not in (0, TRACE_ID)


def test_ratio_is_the_share_of_new_traces() -> None:
    random.seed(5)
    assert {Traces(Kept(), 0.0).of("") for _ in range(1000)} == {NO_TRACE}
    assert all(Traces(Kept(), 1.0).of("").is_sampled for _ in range(1000))
    tenth = Traces(Kept(), 0.1)
    assert 800 < sum(tenth.of("").is_sampled for _ in range(10_000)) < 1200


# --- What a span says ---


def test_events_of_an_iterative_model_are_those_of_the_metrics() -> None:
    found = {event.name: moment for event, moment in ended(timings=TIMINGS).events()}
    assert found == {"QUEUED": 100.5, "ADMITTED": 100.75, "ENCODED": 101.0, "FIRST_TOKEN": 101.25, "FINISHED": 102.0}


def test_events_of_a_single_pass_model_are_window_and_run() -> None:
    found = {event.name: moment for event, moment in ended(timings=TIMINGS, is_single_pass=True).events()}
    assert found == {"QUEUED": 100.5, "BATCHABLE": 100.625, "RUN_BEGAN": 100.75, "RUN_ENDED": 101.0}


async def test_request_is_one_span_with_its_events(make_shell: ShellFactory, receiver: Receiver) -> None:
    counts = Counts()
    traces = Traces(OtlpSpans(receiver.address, counts), 0.0)
    shell = await make_shell(ends=Ends(traces=traces))
    before = time.time_ns()
    await shell.translation.Translate(
        translation_pb2.TranslateRequest(text="secret\ntext", split_sentences=True),
        metadata=(("traceparent", SAMPLED), ("x-request-id", "id-7")),
    )
    await until(lambda: bool(shell.recorder.counted))
    await asyncio.to_thread(traces.close, 30)
    (span,) = receiver.spans
    assert span.name == "attnserve.v1.TranslationService/Translate"
    assert (span.trace_id, span.parent_span_id) == (TRACE_ID.to_bytes(16), PARENT_ID.to_bytes(8))
    assert span.kind == span.SPAN_KIND_SERVER
    assert before <= span.start_time_unix_nano < span.end_time_unix_nano <= time.time_ns()
    assert [event.name for event in span.events] == ["queued", "admitted", "encoded", "first_token", "finished"]
    assert span.start_time_unix_nano < span.events[0].time_unix_nano < span.end_time_unix_nano
    assert attributes(span) == {
        "rpc.system": "grpc",
        "rpc.service": "attnserve.v1.TranslationService",
        "rpc.method": "Translate",
        "rpc.grpc.status_code": 0,
        "attnserve.request_id": "id-7",
        "attnserve.model": "upper-en-de",
        "attnserve.model_version": "1",
        "attnserve.task": "translation",
        "attnserve.parts": 2,
        "attnserve.rows": 2,
        "attnserve.source_tokens": 12,
        "attnserve.generated_tokens": 12,
    }
    assert b"secret" not in span.SerializeToString().lower()
    assert receiver.resources[0]["service.name"] == "attnserve"
    assert (counts.num_sent, counts.num_dropped) == (1, 0)


async def test_failed_request_has_its_status(make_shell: ShellFactory, receiver: Receiver) -> None:
    traces = Traces(OtlpSpans(receiver.address, Counts()), 1.0)
    shell = await make_shell(ends=Ends(traces=traces))
    request = translation_pb2.TranslateRequest(text="a")
    shell.front.submit_error = errors.Overloaded("full", retry_after_s=1.0)
    with pytest.raises(grpc.RpcError):
        await shell.translation.Translate(request)
    shell.front.submit_error, shell.front.result_error = None, errors.WorkerLost("it died")
    with pytest.raises(grpc.RpcError):
        await shell.translation.Translate(request)
    await until(lambda: len(shell.recorder.counted) >= 2)
    await asyncio.to_thread(traces.close, 30)
    full, lost = receiver.spans
    assert [attributes(span)["rpc.grpc.status_code"] for span in (full, lost)] == [8, 14]
    assert [attributes(span)["attnserve.reason"] for span in (full, lost)] == ["OVERLOADED", "WORKER_LOST"]
    assert (full.status.code, lost.status.code) == (full.status.STATUS_CODE_UNSET, full.status.STATUS_CODE_ERROR)
    assert [[event.name for event in span.events] for span in (full, lost)] == [[], ["queued"]]


def test_resource_can_be_named_by_the_standard_variables(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=translator,place=here")
    spans = OtlpSpans(receiver.address, Counts())
    spans.add(Trace(1, 0, True), ended())
    spans.close(30)
    assert receiver.resources[0].items() >= {"service.name": "translator", "place": "here"}.items()


# --- Without a receiver ---


def test_spans_that_do_not_fit_are_dropped_and_counted(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "MAX_QUEUED", 20)
    monkeypatch.setattr(otlp, "BATCH", 10)
    receiver.gate.clear()
    counts = Counts()
    spans = OtlpSpans(receiver.address, counts)
    for _ in range(100):
        spans.add(Trace(1, 0, True), ended())
    lost = counts.num_dropped
    assert 100 - 20 - 10 <= lost <= 100 - 20
    receiver.gate.set()
    spans.close(30)
    assert (len(receiver.spans), counts.num_sent, counts.num_dropped) == (100 - lost, 100 - lost, lost)


def test_receiver_that_does_not_answer_is_not_waited_for_longer_than_asked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "ABORT_S", 20.0)
    receiver.gate.clear()
    counts = Counts()
    spans = OtlpSpans(receiver.address, counts)
    spans.add(Trace(1, 0, True), ended())
    began = time.monotonic()
    spans.close(0.2)
    assert 0.1 < time.monotonic() - began < otlp.EXPORT_S
    assert (counts.num_sent, counts.num_dropped) == (0, 1)


async def test_requests_are_answered_without_a_receiver(make_shell: ShellFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "ABORT_S", 20.0)
    counts = Counts()
    traces = Traces(OtlpSpans(NOBODY, counts), 1.0)
    shell = await make_shell(ends=Ends(traces=traces))
    for _ in range(20):
        await shell.translation.Translate(translation_pb2.TranslateRequest(text="a"), timeout=20)
    await until(lambda: len(shell.recorder.counted) == 20)
    await asyncio.to_thread(traces.close, 0.1)
    assert (counts.num_sent, counts.num_dropped) == (0, 20)
    assert not [thread for thread in threading.enumerate() if thread.name == "traces end"]


async def test_request_is_answered_where_its_span_cannot_be_made(
    make_shell: ShellFactory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(trace: Trace, ended: Ended) -> None:
        raise ValueError("planted")

    spans = Kept()
    monkeypatch.setattr(spans, "add", fail)
    shell = await make_shell(ends=Ends(traces=Traces(spans, 1.0)))
    answer = await shell.translation.Translate(translation_pb2.TranslateRequest(text="a"))
    assert answer.hypotheses[0].text == "A"
    await until(lambda: bool(shell.recorder.counted))
    assert "the span of a request was not made" in caplog.text


def test_outage_has_one_line_of_the_log_in_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    spans, exporter = OtlpSpans(NOBODY, Counts()), logging.getLogger(otlp.LOGGER)
    with caplog.at_level(logging.DEBUG, otlp.LOGGER):
        exporter.warning("first attempt")
        exporter.error("first batch")
        exporter.error("second batch")
        spans.close(0)
        exporter.error("of another program")
    assert [record.getMessage() for record in caplog.records] == ["first batch", "of another program"]


# --- Settings ---


def test_traces_are_off_by_default() -> None:
    assert ServerConfig().trace == TraceConfig(endpoint="", sample_ratio=1.0)


@pytest.mark.parametrize("endpoint", ["localhost:4317", "http://", "http://a:1/path", "ftp://a:1", " http://a:1"])
def test_endpoint_that_is_wrong_is_refused(endpoint: str) -> None:
    with pytest.raises(errors.ConfigError, match=r"^trace\.endpoint: "):
        load_config({"trace": {"endpoint": endpoint}}, {})


@pytest.mark.parametrize("ratio", ["-0.1", "1.1", "nan"])
def test_ratio_out_of_range_is_refused(ratio: str) -> None:
    with pytest.raises(errors.ConfigError, match=r"^trace\.sample_ratio: "):
        load_config({}, {"ATTNSERVE_TRACE_SAMPLE_RATIO": ratio})


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "attnserve_server.metrics.otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(errors.ConfigError, match=r'pip install "attnserve\[trace\]"'):
        open_traces(NOBODY, 1.0, Counts())


def test_other_missing_module_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "attnserve_server.metrics.otlp")
    monkeypatch.setitem(sys.modules, "attnserve_server.metrics.ended", None)
    with pytest.raises(ModuleNotFoundError, match="attnserve_server"):
        open_traces(NOBODY, 1.0, Counts())


@pytest.mark.parametrize(("opens", "imported"), [("", "False"), ("open_traces('http://127.0.0.1:1', 1.0, None)", "True")])
def test_opentelemetry_is_imported_only_with_traces(opens: str, imported: str) -> None:
    program = f"""
import sys
import attnserve_client, attnserve_server.app, attnserve_server.cli
from attnserve_server.metrics.traces import open_traces
{opens}
print(any(name.split(".")[0] == "opentelemetry" for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == imported
