# SPDX-License-Identifier: Apache-2.0
"""A real collector of OpenTelemetry's protocol takes the spans of a caller and of the server, as one trace."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from attnserve_client import Client
from tests.deploy import tools
from tests.e2e.serving import SENTENCES, eventually, serve

SPAN = re.compile(r"Trace ID +: (\w+)\n +Parent ID +: (\w*)\n +ID +: (\w+)\n +Name +: (\S+)\n")


def collector() -> Path:
    """The program of the package rotel."""
    (program,) = tools.python("rotel==0.0.1a15").parent.glob("lib/python*/site-packages/rotel/rotel-agent")
    return program


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_collector_has_one_trace_of_two_hops(tmp_path: Path) -> None:
    address, log = f"127.0.0.1:{free_port()}", tmp_path / "collector.log"
    command = [collector(), "start", "--otlp-grpc-endpoint", address, "--otlp-http-endpoint", f"127.0.0.1:{free_port()}"]
    command += ["--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            eventually(lambda: "Starting" in log.read_text(), "the collector")
            provider = TracerProvider()
            provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"http://{address}")))
            flags = "--trace-endpoint", f"http://{address}", "--trace-ratio", "0"
            with serve(tmp_path, "--workers", "1", *flags) as server, Client(server.target) as client:
                with provider.get_tracer("caller").start_as_current_span("hop"):
                    client.translate(SENTENCES[0])
                eventually(lambda: len(SPAN.findall(log.read_text())) == 2, "both spans", 20)
                eventually(lambda: server.scrape().total("attnserve_spans_sent_total") == 1, "the count of the span")
        finally:
            process.terminate()
    hop, own = SPAN.findall(log.read_text())
    assert (hop[3], own[3]) == ("hop", "attnserve.v1.TranslationService/Translate")
    assert own[0] == hop[0]
    assert own[1] == hop[2]
