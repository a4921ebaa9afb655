# SPDX-License-Identifier: Apache-2.0
"""The client sends the trace of the calling code's span, if there is one, and does not import OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from attnserve_client import AsyncClient, Client, trace
from tests.fakes.server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.stop()


def sent(server: FakeServer) -> list[str | None]:
    return server.translation.traces


def value_of(span: Span) -> str:
    """What OpenTelemetry's own propagator sends."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
    return carrier["traceparent"]


def test_call_within_a_span_carries_its_trace(server: FakeServer) -> None:
    with Client(server.address) as client, TracerProvider().get_tracer("caller").start_as_current_span("hop") as span:
        client.translate("a")
        list(client.translate_stream("a"))
        list(client.translate_many(["a"]))
    assert span.get_span_context().trace_flags.sampled
    assert sent(server) == [value_of(span)] * 3


async def test_call_of_the_client_for_asyncio_carries_it_too(server: FakeServer) -> None:
    async with AsyncClient(server.address) as client:
        with TracerProvider(sampler=ALWAYS_OFF).get_tracer("caller").start_as_current_span("hop") as span:
            await client.translate("a")
    assert not span.get_span_context().trace_flags.sampled
    assert sent(server) == [value_of(span)]


def test_call_outside_of_a_span_carries_none(server: FakeServer) -> None:
    with Client(server.address) as client:
        client.translate("a")
    assert sent(server) == [None]
    assert trace.current() == ()


def test_client_does_not_import_opentelemetry() -> None:
    program = """
import sys
import attnserve_client
from attnserve_client import trace
print(trace.current(), any(name.split(".")[0] == "opentelemetry" for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "() False"
