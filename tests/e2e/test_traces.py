# SPDX-License-Identifier: Apache-2.0
"""Traces of a real server: a request over two hops is one trace in an OTLP receiver; a receiver that is not there harms nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from attnserve_client import Client
from attnserve_server.metrics.traces import FLUSH_S
from tests.e2e.serving import MODELS, SENTENCES, ask, eventually, serve
from tests.fakes.otlp import OtlpServer, Receiver, attributes

SEQUENCE = ["queued", "admitted", "encoded", "first_token", "finished"]
PASS = ["queued", "batchable", "run_began", "run_ended"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with OtlpServer() as receiver:
        yield receiver


def test_request_over_two_hops_is_one_trace(tmp_path: Path, receiver: Receiver) -> None:
    """The caller's span and the server's arrive in two processes' exports, of one trace, one within the other."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=receiver.address)))
    flags = "--trace-endpoint", receiver.address, "--trace-ratio", "0", "--log-format", "json", "--slow-request-seconds", "1e-6"
    with serve(tmp_path, "--workers", "1", *flags) as server:
        with Client(server.target) as client, provider.get_tracer("caller").start_as_current_span("hop"):
            client.translate(SENTENCES[0])
        eventually(lambda: len(receiver.spans) == 2, "both spans")
        own, hop = sorted(receiver.spans, key=lambda span: span.name)  # either may come first
        eventually(lambda: server.log.read_text().count('"method"') == 2, "both lines")
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert (hop.name, own.name) == ("hop", "attnserve.v1.TranslationService/Translate")
    assert own.trace_id == hop.trace_id
    assert own.parent_span_id == hop.span_id
    assert hop.start_time_unix_nano < own.start_time_unix_nano < own.end_time_unix_nano < hop.end_time_unix_nano
    assert [event.name for event in own.events] == SEQUENCE
    moments = [own.start_time_unix_nano, *(event.time_unix_nano for event in own.events), own.end_time_unix_nano]
    assert moments == sorted(moments)
    line, slow = [line for line in lines if "method" in line]
    assert (line["level"], slow["level"], slow["trace_id"]) == ("INFO", "WARNING", line["trace_id"])
    assert slow["message"].startswith("slow: Translate OK ")
    assert (line["trace_id"], line["request_id"]) == (own.trace_id.hex(), attributes(own)["attnserve.request_id"])


def test_last_spans_are_sent_while_the_server_drains(tmp_path: Path, receiver: Receiver) -> None:
    with serve(tmp_path, "--workers", "1", "--trace-endpoint", receiver.address) as server, server.channel() as channel:
        ask(channel, SENTENCES[0])
        server.process.terminate()
        assert server.process.wait(20) == 0
    (span,) = receiver.spans
    assert span.parent_span_id == b""


def test_receiver_that_is_not_there_harms_neither_requests_nor_the_end(tmp_path: Path) -> None:
    with (
        serve(tmp_path, "--workers", "1", "--drain-seconds", "0.1", "--trace-endpoint", "http://127.0.0.1:1") as server,
        server.channel() as channel,
    ):
        for sentence in SENTENCES[:20]:
            assert ask(channel, sentence).hypotheses
        server.assert_unharmed()
        server.process.terminate()
        began = time.monotonic()
        assert server.process.wait(20) == 0
        assert time.monotonic() - began < FLUSH_S, "it tries for no longer than it may drain"


def test_server_without_the_extra_says_so_at_its_start(tmp_path: Path) -> None:
    missing = tmp_path / "opentelemetry"
    missing.mkdir()
    (missing / "__init__.py").write_text("raise ModuleNotFoundError('gone', name='opentelemetry')\n")
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "attnserve_server", "--trace-endpoint", "http://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=60)
    assert done.returncode == 1
    assert 'error: trace.endpoint needs opentelemetry, which is not installed: pip install "attnserve[trace]"' in done.stderr


def test_span_of_a_single_pass_model_has_window_and_run(tmp_path: Path, receiver: Receiver) -> None:
    repository, name = tmp_path / "passes", "cbam-cifar10"
    repository.mkdir()
    (repository / name).symlink_to(MODELS / name, target_is_directory=True)
    image = (MODELS / "classification.jpg").read_bytes()
    flags = "--workers", "1", "--models", str(repository), "--trace-endpoint", receiver.address
    with serve(tmp_path, *flags) as server, Client(server.target) as client:
        client.classify_image(image)
        eventually(lambda: bool(receiver.spans), "a span")
    (span,) = receiver.spans
    assert [event.name for event in span.events] == PASS
    assert attributes(span)["attnserve.task"] == "classification"
    moments: list[Any] = [event.time_unix_nano for event in span.events]
    assert moments == sorted(moments)
