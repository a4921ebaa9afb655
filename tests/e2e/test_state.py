# SPDX-License-Identifier: Apache-2.0
"""SIGUSR1 shows what a running server does, and changes nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.serving import SENTENCES, ask, eventually, serve, start_unary, wait_for_arrival
from tests.stopping import stopped

MARK = "Quagga"
WAITS = (
    r"state: request \d+ \[[^]]*\] of transformer-en-de: waits, for [\d.]+ s; 1 rows, source \d+, 0 parts sent, 1 callers, deadline"
)
NUM = 12
LAST = r"state: worker-0\.0, transformer-en-de, version 1: \d+ of 1 slots, .*\n"
AT = r"state: request \d+ \[[^]]*\] of transformer-en-de: at worker-0\.0, for"


def test_signal_shows_stacks_queues_and_requests_without_their_text(tmp_path: Path) -> None:
    """The worker is stopped, so that requests stay where they are.

    Stacks are read after the answers: another thread of a process that goes on may write them while the main thread runs, and
    then they can be cut short.
    """
    with (
        serve(tmp_path, "--workers", "1", "--slots", "1", environment={"ATTNSERVE_ENGINE_HANG_SECONDS": "600"}) as server,
        server.channel() as channel,
    ):
        (worker,) = server.workers.values()
        ask(channel, SENTENCES[0])
        with stopped(worker):
            calls = [start_unary(channel, f"{MARK} {number}", timeout=60) for number in range(NUM)]
            eventually(lambda: server.scrape().total("attnserve_queue_length") > 0, "some wait")
            server.process.send_signal(signal.SIGUSR1)
            eventually(lambda: re.search(LAST, server.log.read_text()) is not None, "the whole state")
        assert all(call.result().hypotheses for call in calls)
        text = server.log.read_text()
        (waiting,) = re.findall(
            r"state: transformer-en-de, version 1: (\d+) wait, the oldest for [\d.]+ s; rows: \d+ at worker-0\.0", text
        )
        (in_flight,) = re.findall(r"state: (\d+) requests in flight", text)
        assert len(re.findall(WAITS, text)) == int(waiting) > 0
        assert len(re.findall(AT, text)) == int(in_flight) - int(waiting) > 0
        server.process.send_signal(signal.SIGUSR1)
        stacks = lambda: server.log.read_text().removeprefix(text)  # noqa: E731
        eventually(lambda: "engine/worker/worker.py" in stacks() and "asyncio/runners.py" in stacks(), "stacks of both processes")
        assert MARK not in server.log.read_text()
        server.assert_unharmed()


def test_second_signal_shows_it_again(tmp_path: Path) -> None:
    with serve(tmp_path, "--workers", "1") as server:
        for number in (1, 2):
            server.process.send_signal(signal.SIGUSR1)
            eventually(lambda: server.log.read_text().count("state: 0 requests in flight") == number, "another answer")  # noqa: B023
        server.assert_unharmed()


def debug(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`attnserve debug`."""
    program = "import sys; from attnserve_client.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "debug", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_command_shows_stacks_queues_and_requests_without_their_text(tmp_path: Path) -> None:
    """The worker is stopped first, and has no stacks then; a second time it runs."""
    with (
        serve(tmp_path, "--workers", "1", "--slots", "1", environment={"ATTNSERVE_ENGINE_HANG_SECONDS": "600"}) as server,
        server.channel() as channel,
    ):
        ((name, worker),) = server.workers.items()
        ask(channel, SENTENCES[0])
        with stopped(worker):
            calls = [start_unary(channel, f"{MARK} {number}", timeout=60) for number in range(NUM)]
            wait_for_arrival(channel)
            halted = debug(str(server.process.pid))
        assert all(call.result().hypotheses for call in calls)
        running = debug(str(server.process.pid))
        until = time.monotonic() + 60
        while "most recent call first" not in running.stdout.partition(f"stacks of {name} ({worker})\n")[2]:
            assert time.monotonic() < until, running.stdout  # a worker that gets no processor for a second writes none in time
            running = debug(str(server.process.pid))
        assert (halted.returncode, running.returncode) == (0, 0), halted.stderr + running.stderr
        assert f"{NUM} requests in flight" in halted.stdout
        assert re.search(WAITS.removeprefix("state: "), halted.stdout)
        assert re.search(AT.removeprefix("state: "), halted.stdout)
        assert f"stacks of {name} ({worker})\n(no stacks: the process is stopped" in halted.stdout
        assert "0 requests are being prepared\n0 requests in flight" in running.stdout
        assert re.search(rf"^{re.escape(name)}, transformer-en-de, version 1: \d+ of 1 slots, ", running.stdout, re.MULTILINE)
        front, workers = running.stdout.split(f"stacks of {name} ({worker})\n")
        assert f"stacks of the front ({server.process.pid})" in front and "asyncio/runners.py" in front
        assert "most recent call first" in workers and "engine/worker/worker.py" in workers
        assert MARK not in halted.stdout + running.stdout
        server.assert_unharmed()


def test_command_for_a_worker_says_that_it_is_no_server(tmp_path: Path) -> None:
    with serve(tmp_path, "--workers", "1") as server:
        (worker,) = server.workers.values()
        done = debug(str(worker))
        assert (done.returncode, done.stderr) == (1, f"error: process {worker} is no attnserve server, or does not serve yet\n")
        server.assert_unharmed()
