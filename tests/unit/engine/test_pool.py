# SPDX-License-Identifier: Apache-2.0
"""The supervisor of the worker processes, whatever the system refuses: with a program that says hello and no more as worker."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from attnserve_server.engine.front import pool as pool_module
from attnserve_server.engine.front.pool import WorkerPool
from attnserve_server.engine.link.messages import Hello
from attnserve_server.errors import StartupError
from tests.fakes.workers import children, write_interpreter

pytestmark = pytest.mark.every_loop

ROOT = Path(__file__).resolve().parents[3]


class Started:
    """A pool of one worker, and what was told of it."""

    def __init__(self, interpreter: Path) -> None:
        self.interpreter = interpreter
        self.pool = WorkerPool(1, python=write_interpreter(interpreter))
        self.came: asyncio.Queue[str] = asyncio.Queue()
        self.lost: list[str] = []

    async def start(self) -> Started:
        await self.pool.open()
        await self.pool.start(self.on_message, self.on_lost)
        assert await self.successor() == "worker-0.0"
        return self

    def on_message(self, worker: str, message: Any) -> None:
        assert isinstance(message, Hello)
        self.came.put_nowait(worker)

    def on_lost(self, worker: str) -> None:
        self.lost.append(worker)

    def kill(self) -> None:
        (pid,) = self.pool.pids().values()
        os.kill(pid, signal.SIGKILL)

    async def successor(self) -> str:
        """The name of the next worker that says hello."""
        return await asyncio.wait_for(self.came.get(), 20)


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[Started]:
    running = await Started(tmp_path / "interpreter").start()
    yield running
    await running.pool.stop(0)


def raises_once(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, error: BaseException) -> None:
    original, errors = getattr(place, name), [error]

    def call(*args: Any, **kwargs: Any) -> Any:
        if errors:
            raise errors.pop()
        return original(*args, **kwargs)

    monkeypatch.setattr(place, name, call)


@pytest.mark.parametrize(
    ("place", "name", "error"),
    [
        (socket, "socketpair", OSError(errno.EMFILE, "Too many open files")),
        (subprocess, "Popen", BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")),
        (subprocess, "Popen", FileNotFoundError(errno.ENOENT, "No such file or directory")),
        (subprocess, "Popen", MemoryError()),
    ],
    ids=["no descriptors", "no process", "no interpreter", "no memory"],
)
async def test_worker_is_started_again_whatever_failed(
    started: Started, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: Any, name: str, error: Exception
) -> None:
    raises_once(monkeypatch, place, name, error)
    started.kill()
    assert await started.successor() == "worker-0.2"
    assert f"worker-0.1 could not be started: {type(error).__name__}" in caplog.text
    assert started.lost == ["worker-0.0", "worker-0.1"]
    assert list(started.pool.pids()) == ["worker-0.2"]


async def test_interpreter_that_is_away_for_a_while(started: Started) -> None:
    away = started.interpreter.with_name("away")
    started.interpreter.rename(away)
    started.kill()
    while len(started.lost) < 3:
        await asyncio.sleep(0.01)
    away.rename(started.interpreter)
    assert await started.successor() == f"worker-0.{len(started.lost)}"


async def test_loss_that_cannot_be_handled_ends_no_supervisor(started: Started) -> None:
    started.lost = Raising()
    started.kill()
    assert await started.successor() == "worker-0.1"


class Raising(list[str]):
    """Accepts no item."""

    def append(self, item: str) -> None:
        raise ValueError("planted")


def num_descriptors() -> int:
    """Open files of this process. What earlier tests have left may be closed meanwhile, so that there are fewer."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_failed_start_leaves_no_descriptor_open(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    before = num_descriptors()
    raises_once(monkeypatch, asyncio.get_running_loop(), "create_unix_connection", OSError(errno.ENOMEM, "Cannot allocate memory"))
    started.kill()
    await started.successor()
    assert num_descriptors() <= before


def shared_memories() -> int:
    """Number of mappings of memory that this process shares with workers."""
    return Path("/proc/self/maps").read_text(encoding="utf-8").count("memfd:attnserve")


async def test_killed_workers_leave_no_shared_memory(started: Started) -> None:
    before = num_descriptors()
    assert shared_memories() == 1
    for number in (1, 2, 3):
        started.kill()
        assert await started.successor() == f"worker-0.{number}"
        assert shared_memories() == 1
    assert num_descriptors() <= before
    await started.pool.stop(0)
    assert shared_memories() == 0


def strangers(started: Started) -> set[int]:
    """The children that are no workers: earlier tests of the process may have left some, such as a decoder that is idle."""
    return children() - set(started.pool.pids().values())


async def test_nothing_is_left_of_twenty_killed_workers(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "HEALTHY_S", -1.0)  # so that none is waited for
    before, others = num_descriptors(), strangers(started)
    for number in range(1, 21):
        started.kill()
        assert await started.successor() == f"worker-0.{number}"
    assert num_descriptors() <= before
    assert strangers(started) <= others, "the ended ones have been waited for"


async def test_worker_whose_end_cannot_be_watched_is_ended(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    before, others = num_descriptors(), strangers(started)
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    raises_once(monkeypatch, threading.Thread, "start", RuntimeError("can't start new thread"))
    started.kill()
    assert await started.successor() == "worker-0.2"
    assert started.lost == ["worker-0.0", "worker-0.1"]
    assert strangers(started) <= others
    assert num_descriptors() <= before - 1, "that of the first one's end"


async def test_system_without_shared_memory_starts_workers_all_the_same(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    started.kill()
    assert await started.successor() == "worker-0.1"
    assert shared_memories() == 0


async def test_each_worker_inherits_its_own_socket_alone(tmp_path: Path) -> None:
    pool, came = WorkerPool(4, python=write_interpreter(tmp_path / "interpreter")), asyncio.Queue[str]()
    await pool.open()
    await pool.start(lambda worker, _: came.put_nowait(worker), lambda _: None)
    for _ in range(4):
        await asyncio.wait_for(came.get(), 20)
    for pid in pool.pids().values():
        links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if int(link.name) > 2]
        assert len([link for link in links if link.startswith("socket:")]) == 1, links
    await pool.stop(0)


async def test_start_that_never_succeeds_says_why(tmp_path: Path) -> None:
    pool = WorkerPool(1, python=str(tmp_path / "nothing"))
    with pytest.raises(StartupError, match="the last one could not be started: FileNotFoundError"):
        await pool.open()
    await pool.stop()


async def test_device_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    pool = WorkerPool(1, "cuda", python=write_interpreter(tmp_path / "interpreter", Hello("cuda", "1.31.1", "no driver")))
    with pytest.raises(StartupError, match=r"^the device 'cuda' cannot be used: no driver$"):
        await pool.open()
    await pool.stop(0)


async def test_no_successor_while_draining(started: Started) -> None:
    started.pool.is_draining = True
    started.kill()
    while not started.lost:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # longer than the pause before a start
    assert started.came.empty()
    assert started.pool.pids() == {}


async def test_stopped_worker_does_not_hold_up_the_end(started: Started) -> None:
    (pid,) = started.pool.pids().values()
    os.kill(pid, signal.SIGSTOP)
    await asyncio.wait_for(started.pool.stop(0.05), 30)
    assert started.pool.pids() == {}


AS_USER = ["setpriv", "--reuid=65534", "--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]
"""Root is refused nothing; of what it may, a user who may read the checkout is left."""


@pytest.mark.skipif(os.getuid() == 0 and shutil.which(AS_USER[0]) is None, reason="root without setpriv")
@pytest.mark.parametrize("loop", ["asyncio", "served"])
def test_refused_process_does_not_stop_grpc(tmp_path: Path, loop: str) -> None:
    """gRPC is imported before the server here, as by the command `attnserve`: its fork handlers are active."""
    program = [
        *(AS_USER if os.getuid() == 0 else ()),
        sys.executable,
        "-m",
        "tests.unit.engine.refused_process",
        write_interpreter(tmp_path / "interpreter"),
        loop,
    ]
    environ = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=ROOT, timeout=100, env=environ)
    assert done.stdout.split() == ["answered", "refused", "answered", "worker-0.2"], done.stderr[-2000:]


async def test_stacks_are_asked_of_a_worker_that_has_spoken(started: Started) -> None:
    """This one has no handler, so the signal ends it."""
    started.pool.show_stacks()
    assert await started.successor() == "worker-0.1"
    assert started.lost == ["worker-0.0"]


async def test_stacks_are_not_asked_of_a_worker_that_has_said_nothing(tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    silent.chmod(0o755)
    pool = WorkerPool(1, python=str(silent))
    opening = asyncio.create_task(pool.open())
    async with asyncio.timeout(20):
        while not pool.pids():
            await asyncio.sleep(0.005)
    (pid,) = pool.pids().values()
    pool.show_stacks()
    await asyncio.sleep(0.2)
    assert pool.pids() == {"worker-0.0": pid}
    opening.cancel()
    await pool.stop(0)


async def test_worker_without_a_file_for_its_stacks_has_none(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    started.kill()
    assert await started.successor() == "worker-0.1"
    ((name, pid),) = started.pool.pids().items()
    assert await asyncio.to_thread(started.pool.stacks) == {f"{name} ({pid})": ""}
    await asyncio.sleep(0.1)
    assert started.pool.pids() == {name: pid}, "it was not signalled, which would end it"
    assert started.lost == ["worker-0.0"]


async def test_stopped_workers_do_not_hold_up_their_stacks(started: Started) -> None:
    (pid,) = started.pool.pids().values()
    os.kill(pid, signal.SIGSTOP)
    assert list((await asyncio.wait_for(asyncio.to_thread(started.pool.stacks, 0.1), 30)).values()) == [""]
