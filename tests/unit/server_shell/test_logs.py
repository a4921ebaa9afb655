# SPDX-License-Identifier: Apache-2.0
"""Request ids in log lines; JSON and text."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from attnserve_server.metrics import logs

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
    logger.info("answered %d", 1, extra={logs.FIELDS: {"code": "OK"}})
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
