# SPDX-License-Identifier: Apache-2.0
"""An event loop that is stuck: probes are answered all the same, and the process ends in the end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from attnserve_server.metrics.exposition import Exposition
from attnserve_server.process import new_event_loop
from attnserve_server.transport.http import watchdog
from attnserve_server.transport.http.server import HttpServer
from attnserve_server.transport.http.watchdog import Watchdog

STUCK_S = 0.6
"""Long enough that the loop's thread runs within it on a busy machine."""


class Watched:
    """An HTTP server on an event loop in a thread, with a watchdog; ``stuck()`` stops the loop within it."""

    def __init__(self, end_s: float = 60.0, end: Callable[[], object] = lambda: None) -> None:
        self.loop = new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.server = HttpServer("127.0.0.1", 0, Exposition(CollectorRegistry()), lambda: (True, "ok"))
        self.watchdog = Watchdog(end, STUCK_S, end_s)
        self.port = asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(30)

    async def _start(self) -> int:
        port = await self.server.start()
        self.watchdog.start(self.server.listeners)
        return port

    def healthz(self) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        return response.status, response.read().decode()

    @contextlib.contextmanager
    def stuck(self) -> Iterator[None]:
        go_on, is_stuck = threading.Event(), threading.Event()

        def block() -> None:
            is_stuck.set()
            go_on.wait(30)

        self.loop.call_soon_threadsafe(block)
        assert is_stuck.wait(30)
        try:
            yield
        finally:
            go_on.set()

    async def _stop(self) -> None:
        self.watchdog.stop()
        await self.server.stop()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def test_probe_of_a_stuck_event_loop_is_answered_with_503_until_it_runs_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "PROBE_S", 20.0)  # a busy machine may stop the client between connection and request
    watched = Watched()
    try:
        assert watched.healthz() == (200, "ok\n")
        with watched.stuck():
            status, text = watched.healthz()
            assert (status, text[:31]) == (503, "the event loop has not run for ")
            assert watched.healthz()[0] == 503
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), watched.loop).result(30)
        assert watched.healthz() == (200, "ok\n")
        assert "go_on.wait(30)" in caplog.text, "the log says where the loop was"
    finally:
        watched.close()


def test_process_whose_event_loop_stays_stuck_is_ended() -> None:
    ended = threading.Event()
    watched = Watched(3 * STUCK_S, ended.set)
    try:
        with watched.stuck():
            assert ended.wait(25)
    finally:
        watched.close()


def test_event_loop_that_runs_is_not_stuck() -> None:
    ended = threading.Event()
    watched = Watched(STUCK_S, ended.set)
    try:
        assert not ended.wait(2 * STUCK_S)
        assert watched.healthz()[0] == 200
    finally:
        watched.close()


ENDS = """
import logging, sys
from attnserve_server.metrics.logs import configure_logging
from attnserve_server.transport.http.watchdog import end_process
configure_logging("text", "info")
logging.getLogger("last").critical("words")
end_process(lambda: print("before", flush=True))
"""


def test_end_of_the_process_takes_no_log_line_with_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "before\n"
    assert done.stderr.endswith("words\n")
