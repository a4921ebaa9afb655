# SPDX-License-Identifier: Apache-2.0
"""Logs with request ids, in the front and in workers: a context variable, the filter that reads it, and the two formats.

User text is never logged; the request id links a client's report to the log.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from attnserve_server.metrics.log_writer import WriterThread

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")
"""Id of the request that the current task handles."""

FIELDS = "fields"
"""``extra={FIELDS: function}`` adds the entries that the function returns to a JSON line; the text format does not call it."""

LEVEL_VARIABLE, FORMAT_VARIABLE = "ATTNSERVE_LOG_LEVEL", "ATTNSERVE_LOG_FORMAT"
"""Environment variables that pass the log settings to a worker process."""

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"


@contextlib.contextmanager
def of_request(identifier: str) -> Iterator[None]:
    """Sets the request id of all log records within the context."""
    token = request_id.set(identifier)
    try:
        yield
    finally:
        request_id.reset(token)


class RequestIdFilter(logging.Filter):
    """Adds ``request_id`` to every record. Attach it to a handler, so that the records of all loggers pass it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Sets the id and keeps the record."""
        record.request_id = request_id.get()
        return True


class TextFormatter(logging.Formatter):
    """Formats records as lines of text."""

    def __init__(self) -> None:
        super().__init__(TEXT_FORMAT)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Returns the local time with milliseconds, as ``logging`` does."""
        del datefmt
        return f"{_local_second(int(record.created))},{int(record.msecs):03d}"


@functools.lru_cache(maxsize=1)
def _local_second(second: int) -> str:
    """Formats a second once for all its records."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


@functools.lru_cache(maxsize=1)
def _utc_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


class JsonFormatter(logging.Formatter):
    """Formats records as one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, with the traceback, if any, as one string."""
        entry: dict[str, object] = {
            "time": f"{_utc_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "request_id": getattr(record, "request_id", "-"),
            "message": record.getMessage(),
            **getattr(record, FIELDS, dict)(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logging(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Configures all logs to go to one stream, as ``text`` or ``json``; replaces earlier handlers.

    Args:
        log_format: ``text`` or ``json``.
        level: the least level that is logged.
        stream: it is written by the logging thread itself; None for standard error, which a thread of its own writes.
    """
    handler = _standard_error() if stream is None else logging.StreamHandler(stream)
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no format has them
    root = logging.getLogger()
    own_level = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger("PIL").setLevel(max(own_level, logging.INFO))  # its debug records have the metadata of clients' images
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


def _standard_error() -> logging.Handler:
    """Returns the handler of standard error; one that does nothing if the process was started without it."""
    return logging.NullHandler() if sys.__stderr__ is None else WriterThread(sys.__stderr__.fileno())
