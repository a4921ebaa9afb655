# SPDX-License-Identifier: Apache-2.0
"""Request ids in log lines; JSON and text."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import re
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from attnserve_server.metrics import log_writer, logs
from attnserve_server.metrics.log_writer import WriterThread
from attnserve_server.metrics.prometheus import Metrics

logger = logging.getLogger("attnserve_server.test")


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def _bound() -> Iterator[None]:
    token = logs.request_id.set("id-1")
    yield
    logs.request_id.reset(token)


def configured(log_format: str) -> io.StringIO:
    stream = io.StringIO()
    logs.configure_logging(log_format, "info", stream)
    return stream


@pytest.mark.parametrize(("level", "found"), [("debug", ["DEBUG", "INFO"]), ("info", ["INFO"]), ("warning", [])])
def test_pillow_logs_no_debug_records(level: str, found: list[str]) -> None:
    """They have the metadata of a client's image."""
    stream, pillow = io.StringIO(), logging.getLogger("PIL.TiffImagePlugin")
    try:
        logs.configure_logging("text", level, stream)
        pillow.debug("tag: Artist, value: name")
        logger.debug("own record")
        pillow.info("version")
    finally:
        logging.getLogger("PIL").setLevel(logging.NOTSET)
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == found
    assert "Artist" not in stream.getvalue()


@pytest.mark.usefixtures("_bound")
def test_json_lines() -> None:
    stream = configured("json")
    logger.info("answered %d", 1, extra={logs.FIELDS: lambda: {"code": "OK"}})
    logger.debug("too small")
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "INFO", "logger": "attnserve_server.test", "request_id": "id-1", "message": "answered 1", "code": "OK",
    }  # fmt: skip


def test_json_keeps_an_exception_on_one_line() -> None:
    stream = configured("json")
    try:
        raise ValueError("a\nb")
    except ValueError:
        logger.exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: a\nb" in json.loads(line)["exception"]
    assert json.loads(line)["request_id"] == "-"


@pytest.mark.usefixtures("_bound")
def test_text_lines() -> None:
    stream = configured("text")
    logger.warning("careful")
    assert stream.getvalue().endswith("WARNING attnserve_server.test [id-1] careful\n")


def test_lines_of_one_request() -> None:
    stream = configured("text")
    with logs.of_request("id-2"):
        logger.warning("its own")
    logger.warning("nobody's")
    assert [line.split(" [")[1] for line in stream.getvalue().splitlines()] == ["id-2] its own", "-] nobody's"]


class Pipe:
    """The output of a log: a pipe of one page, and a handler whose lines take 5 KB at most."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)
        self.handler = WriterThread(self.writing, max_bytes=5_000)
        self.handler.setFormatter(logging.Formatter("%(message)s"))
        root = logging.getLogger()
        root.handlers[:] = [self.handler]
        root.setLevel("INFO")

    def read_until(self, pattern: str) -> str:
        text = ""
        while not re.search(pattern, text):
            text += os.read(self.reading, 65536).decode()
        return text


def dropped(registry: CollectorRegistry) -> float:
    return registry.get_sample_value("attnserve_log_lines_dropped_total") or 0.0


def test_output_that_is_not_read_stops_no_thread_and_its_missing_lines_are_counted() -> None:
    registry, pipe = CollectorRegistry(), Pipe()
    Metrics(registry)
    logger.info("first")
    assert pipe.read_until("first\n") == "first\n"
    writes = threading.Thread(target=lambda: [logger.info("%04d %s", n, "x" * 94) for n in range(1000)], daemon=True)
    writes.start()
    writes.join(20)
    assert not writes.is_alive()
    num_dropped = int(dropped(registry))
    assert 800 < num_dropped < 1000
    text = pipe.read_until(r"dropped.*\n")
    assert f"{num_dropped} log lines were dropped" in text
    assert [int(line[:4]) for line in text.splitlines()[:-1]] == list(range(1000 - num_dropped))
    logger.info("last")
    assert pipe.read_until("last\n") == "last\n"


@pytest.fixture
def long_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the end of the process wait long enough for the thread that writes, also on a busy machine."""
    monkeypatch.setattr(log_writer, "FLUSH_S", 30.0)


@pytest.mark.usefixtures("long_flush")
def test_lines_that_the_output_refuses_are_counted() -> None:
    registry, pipe = CollectorRegistry(), Pipe()
    Metrics(registry)
    os.close(pipe.reading)
    logger.info("to a closed pipe")
    pipe.handler.flush()
    assert dropped(registry) == 1


@pytest.mark.usefixtures("long_flush")
def test_end_of_the_process_waits_a_while_for_the_output() -> None:
    pipe = Pipe()
    for number in range(20):
        logger.info("line %d", number)
    pipe.handler.flush()
    assert os.read(pipe.reading, 65536).decode().count("line") == 20


def test_time_of_a_line_is_that_of_the_library() -> None:
    formatter = logs.TextFormatter()
    for created in (0.0, 1_700_000_000.25, 1_700_000_000.75, 1_700_000_001.0):
        record = logging.makeLogRecord({"created": created, "msecs": created % 1 * 1000, "request_id": "r", "msg": "text"})
        assert formatter.format(record) == logging.Formatter(logs.TEXT_FORMAT).format(record)
