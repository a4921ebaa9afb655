# SPDX-License-Identifier: Apache-2.0
"""`attnserve debug` and the socket that it asks: what it shows, and why it may fail."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from attnserve_server import debugging
from attnserve_server.debugging import DebugError, only_server, servers, snapshot
from attnserve_server.transport import debug
from attnserve_server.transport.debug import END, DebugSocket, address

pytestmark = pytest.mark.every_loop

ME = os.getpid()
LARGE = 300_000


@contextlib.contextmanager
def answering(state: Callable[[], list[str]] = lambda: ["3 requests"], stacks: Mapping[str, str] | None = None) -> Iterator[None]:
    """A socket of this process."""
    own = DebugSocket(state, lambda: stacks or {})
    own.start()
    try:
        yield
    finally:
        own.stop()


@contextlib.contextmanager
def listening(pid: int, answer: bytes | None = None) -> Iterator[None]:
    """Another program's socket with the address of a server; it answers, or lets its clients wait."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address(pid))
        listener.listen(1)
        if answer is not None:
            threading.Thread(target=_answer, args=(listener, answer), daemon=True).start()
        yield


def _answer(listener: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError), listener.accept()[0] as connection:  # a client that does not trust it leaves, or never comes
        connection.sendall(data)


@pytest.fixture
def sleeper() -> Iterator[int]:
    """Another process of this user, which is no server."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


async def asked(pid: int = ME) -> str:
    return await asyncio.to_thread(lambda: "".join(snapshot(pid)))


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(debugging.debug)
    return CliRunner().invoke(app, list(arguments))


# --- What it shows ---


async def test_answer_has_state_and_stacks() -> None:
    with answering(stacks={"worker-1.0 (8)": "", "worker-0.0 (7)": 'File "loop.py"\n'}):
        text = await asked()
    first, second, *_ = text.splitlines()
    assert re.match(rf"attnserve .*process {ME}, for \d\.", first)
    assert second == "3 requests"
    assert f"\n\nstacks of the front ({ME})\n" in text
    assert "test_debugging.py" in text and "most recent call first" in text
    assert '\n\nstacks of worker-0.0 (7)\nFile "loop.py"\n\nstacks of worker-1.0 (8)\n(no stacks: ' in text
    assert END not in text


async def test_large_answer_is_whole() -> None:
    lines = [f"request {number} é" for number in range(LARGE // 20)]
    with answering(lambda: lines):
        text = await asked()
    assert text.splitlines()[1 : 1 + len(lines)] == lines


async def test_second_question_is_answered_too() -> None:
    with answering():
        assert [("3 requests" in await asked()) for _ in range(3)] == [True] * 3


async def test_stuck_event_loop_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug, "LOOP_S", 0.05)
    found: list[str] = []
    with answering():
        client = threading.Thread(target=lambda: found.extend(snapshot(ME)))
        client.start()
        client.join(30)  # on the event loop
    text = "".join(found)
    assert "the event loop has not run for 0.05 s; another thread sees:\n3 requests\n" in text
    assert "in test_stuck_event_loop_is_shown" in text


async def test_state_that_cannot_be_read_beside_the_loop_does_not_end_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug, "LOOP_S", 0.05)

    def state() -> list[str]:
        raise RuntimeError("dictionary changed size during iteration")

    found: list[str] = []
    with answering(state):
        client = threading.Thread(target=lambda: found.extend(snapshot(ME)))
        client.start()
        client.join(30)
    assert "another thread sees:\nnothing: RuntimeError\n\nstacks of the front" in "".join(found)


async def test_command_finds_the_only_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering():
        assert ME in servers()
        monkeypatch.setattr(debugging, "servers", lambda: [ME])
        done = await asyncio.to_thread(run)
    assert done.exit_code == 0
    assert "3 requests" in done.output


# --- Why it may fail ---


def failure(*arguments: str) -> str:
    done = run(*arguments)
    assert done.exit_code == 1
    return done.output.strip()


def test_no_such_process() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert failure(str(process.pid)) == f"error: there is no process {process.pid}"


def test_process_of_another_user(monkeypatch: pytest.MonkeyPatch, sleeper: int) -> None:
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1000)
    assert failure(str(sleeper)) == (
        f"error: process {sleeper} belongs to user {user}; run attnserve debug as that user, or as root"
    )


def test_process_that_is_no_server(sleeper: int) -> None:
    assert failure(str(sleeper)) == f"error: process {sleeper} is no attnserve server, or does not serve yet"


def test_socket_of_a_server_that_another_process_has_is_not_trusted(sleeper: int) -> None:
    with listening(sleeper, b"trust me\n"):
        assert failure(str(sleeper)) == f"error: process {sleeper} is no attnserve server: another process has its socket"


def test_server_that_ends_meanwhile() -> None:
    with listening(ME, b"attnserve\n3 requests\n"):
        output = failure(str(ME))
    assert output == f"attnserve\n3 requests\nerror: server {ME} ended before its answer did"


def test_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debugging, "ANSWER_S", 0.1)
    with listening(ME):
        output = failure(str(ME))
    assert output == f"error: server {ME} has not answered for 0.1 s; kill -USR1 {ME} writes its stacks to its standard error"


async def test_other_users_are_refused_by_the_server(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    user = os.getuid() + 1000
    with answering(), caplog.at_level(logging.WARNING):
        monkeypatch.setattr(debug, "peer_of", lambda connection: (1, user))
        with pytest.raises(DebugError, match="ended before"):
            await asked()
    assert f"attnserve debug of user {user} was refused" in caplog.text


def test_no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = tmp_path / "unix"
    empty.write_text("Num RefCount Protocol Flags Type St Inode Path\n")
    monkeypatch.setattr(debugging, "SOCKETS", empty)
    assert failure() == "error: no server of this user runs here; in a container, run the command there"


def test_several_servers(monkeypatch: pytest.MonkeyPatch, sleeper: int) -> None:
    with listening(ME), listening(sleeper):
        assert {ME, sleeper} <= set(servers())
        with pytest.raises(DebugError, match=r"^several servers run here: \d+, \d+.*; name one: attnserve debug PID$"):
            only_server()


def test_server_of_another_user_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.getuid()
    with listening(ME):
        assert ME in servers()
        monkeypatch.setattr(os, "getuid", lambda: user + 1000)
        assert servers() == []


def test_system_without_such_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(debugging, "SOCKETS", tmp_path / "none")
    assert failure() == "error: attnserve debug needs Linux"


async def test_address_that_is_taken_stops_no_server(caplog: pytest.LogCaptureFixture) -> None:
    with listening(ME), caplog.at_level(logging.WARNING), answering():
        pass
    assert "attnserve debug cannot reach this server: " in caplog.text


async def test_socket_is_gone_after_its_stop() -> None:
    with answering():
        pass
    began = time.monotonic()
    with pytest.raises(DebugError, match="is no attnserve server"):
        await asked()
    assert time.monotonic() - began < debugging.ANSWER_S / 2, "it waited for an answer"
