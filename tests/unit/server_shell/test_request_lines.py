# SPDX-License-Identifier: Apache-2.0
"""The line of each request at its end, as JSON, and the warning about a slow one; neither has text of a user."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from attnserve.v1 import model_pb2, translation_pb2
from attnserve_server.config import ServerConfig, load_config
from attnserve_server.dataplane.ends import Ends
from attnserve_server.errors import ConfigError, Overloaded
from attnserve_server.metrics import logs
from attnserve_server.metrics.ended import Ended, MethodName
from attnserve_server.metrics.timings import Timings
from attnserve_server.metrics.trace_context import Trace
from attnserve_server.metrics.traces import Traces
from tests.unit.server_shell.conftest import Shell, ShellFactory, until

Request = translation_pb2.TranslateRequest
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
NOT_SAMPLED = f"00-{TRACE_ID}-00f067aa0ba902b7-00"


class NoSpans:
    """Takes no span."""

    def add(self, trace: Trace, ended: Ended) -> None:
        raise AssertionError("no span is sampled")

    def close(self, timeout_s: float) -> None:
        del timeout_s


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    logs.configure_logging("json", "info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO, level: str = "INFO") -> list[dict[str, Any]]:
    """The lines of ended requests."""
    entries = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [entry for entry in entries if "method" in entry and entry["level"] == level]


async def asked(shell: Shell, *metadata: tuple[str, str], **fields: Any) -> None:
    """One request, until it is counted."""
    number = len(shell.recorder.counted)
    await shell.translation.Translate(Request(**fields), metadata=metadata)
    await until(lambda: len(shell.recorder.counted) > number)


async def test_answered_request_has_phases_and_counts(shell: Shell, stream: io.StringIO) -> None:
    await asked(shell, ("x-request-id", "id-7"), text="secret\ntext", split_sentences=True)
    (line,) = lines(stream)
    known = {name: line[name] for name in line if name not in ("time", "message") and not name.endswith("_ms")}
    assert known == {
        "level": "INFO",
        "logger": "attnserve_server.dataplane.ends",
        "request_id": "id-7",
        "method": "Translate",
        "code": "OK",
        "reason": "-",
        "model": "upper-en-de",
        "version": "1",
        "task": "translation",
        "client": "ipv4:127.0.0.1",
        "parts": 2,
        "rows": 2,
        "source_tokens": 12,
        "generated_tokens": 12,
    }
    phases = {name: value for name, value in line.items() if name.endswith("_ms")}
    assert list(phases) == ["duration_ms", "preparation_ms", "queue_ms", "encode_ms", "first_token_ms", "decode_ms"]
    assert (phases["encode_ms"], round(phases["decode_ms"])) == (250, 500)
    assert "secret" not in stream.getvalue().lower()


async def test_stream_has_one_line_at_its_end(shell: Shell, stream: io.StringIO) -> None:
    shell.front.hang = True
    call = shell.translation.TranslateStream(translation_pb2.TranslateStreamRequest(text="abc"))
    async for message in call:
        if shell.front.hang:
            assert message.delta.text == "A"
            assert not lines(stream)
            shell.front.hang = False
    await until(lambda: bool(shell.recorder.counted))
    (line,) = lines(stream)
    assert (line["method"], line["generated_tokens"]) == ("TranslateStream", 4)


async def test_refused_request_has_neither_phases_nor_counts(shell: Shell, stream: io.StringIO) -> None:
    shell.front.submit_error = Overloaded("full", retry_after_s=1.0)
    with pytest.raises(grpc.RpcError):
        await shell.translation.Translate(Request(text="a"))
    await until(lambda: any(entry[0] == "done" for entry in shell.recorder.counted))
    (line,) = lines(stream)
    assert (line["code"], line["reason"]) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    assert not {"parts", "rows", "queue_ms", "preparation_ms", "trace_id"} & line.keys()


async def test_cancelled_request_has_what_is_known(shell: Shell, stream: io.StringIO) -> None:
    shell.front.hang = True
    call = shell.translation.Translate(Request(text="abc"))
    task = asyncio.ensure_future(call)
    await asyncio.wait_for(shell.front.submitted.wait(), 30)
    call.cancel()
    await until(lambda: bool(shell.recorder.counted))
    (line,) = lines(stream)
    assert (line["code"], line["rows"], line["source_tokens"], line["generated_tokens"]) == ("CANCELLED", 1, 4, 0)
    assert "preparation_ms" in line and "queue_ms" not in line
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_method_without_a_model_has_a_line_too(shell: Shell, stream: io.StringIO) -> None:
    await shell.models.ListModels(model_pb2.ListModelsRequest())
    await until(lambda: bool(shell.recorder.counted))
    (line,) = lines(stream)
    assert (line["method"], line["model"], line["task"]) == ("ListModels", "", "")


@pytest.mark.parametrize(("ends", "trace_id"), [(Ends(), None), (Ends(traces=Traces(NoSpans(), 0.0)), TRACE_ID)])
async def test_line_has_the_trace_of_the_caller_if_traces_are_on(
    make_shell: ShellFactory, stream: io.StringIO, ends: Ends, trace_id: str | None
) -> None:
    shell = await make_shell(ends=ends)
    await asked(shell, ("traceparent", NOT_SAMPLED), text="a")
    (line,) = lines(stream)
    assert line.get("trace_id") == trace_id


@pytest.mark.parametrize(("slow_s", "number"), [(0.0, 0), (0.05, 1), (60.0, 0)])
async def test_slow_request_is_a_warning_with_its_phases(
    make_shell: ShellFactory, stream: io.StringIO, slow_s: float, number: int
) -> None:
    shell = await make_shell(ends=Ends(slow_s))
    shell.front.hang = True
    request = asyncio.ensure_future(asked(shell, ("x-request-id", "id-8"), text="secret"))
    await asyncio.wait_for(shell.front.submitted.wait(), 30)
    await asyncio.sleep(0.06)
    shell.front.hang = False
    await request
    slow = lines(stream, "WARNING")
    assert len(slow) == number
    assert len(lines(stream)) == 1
    for line in slow:
        assert line["request_id"] == "id-8"
        assert line["message"].startswith("slow: Translate OK - model=upper-en-de/1 ")
        assert "ms preparation_ms=" in line["message"] and " encode_ms=250.0 first_token_ms=" in line["message"]
        assert line["duration_ms"] > 50
        assert "secret" not in line["message"].lower()


async def test_slow_request_is_logged_also_where_other_requests_are_not(
    make_shell: ShellFactory, caplog: pytest.LogCaptureFixture
) -> None:
    shell = await make_shell(ends=Ends(1e-9))
    with caplog.at_level(logging.WARNING, "attnserve_server"):
        await asked(shell, text="a")
    (record,) = caplog.records
    assert record.levelname == "WARNING"


def test_slow_request_of_a_single_pass_model_shows_window_and_run() -> None:
    timings, name = Timings(0.5, 0.25, 0.25, 0.0, 1.0, window_s=0.125), MethodName("s", "ClassifyImage")
    ended = Ended(name, "i", "c", "OK", "-", ("m", "1"), "classification", 10, 11, 10.5, timings, True, 1, 1, 9, 0)
    assert ended.phases_ms() == {"preparation_ms": 500, "queue_ms": 250, "window_ms": 125, "run_ms": 250}


def test_slow_requests_are_not_logged_by_default() -> None:
    assert ServerConfig().slow_request_seconds == 0
    with pytest.raises(ConfigError, match=r"^slow_request_seconds: "):
        load_config({"slow_request_seconds": -1}, {})
