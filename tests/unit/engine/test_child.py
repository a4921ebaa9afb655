# SPDX-License-Identifier: Apache-2.0
"""A child process of the event loop: its end is noticed, with a descriptor of the process and with a thread, and nothing of it is left."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnserve_server.engine.front.child import Child
from tests.fakes.workers import children

pytestmark = pytest.mark.every_loop

SLEEPS = "import time; time.sleep(60)"


def start(program: str) -> Child:
    return Child([sys.executable, "-ISc", program], os.environ)


def without_system_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)


def without_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)


@pytest.fixture(
    params=[None, without_system_call, without_descriptor], ids=["descriptor", "no system call", "no descriptor"], autouse=True
)
def watching(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the end is noticed."""
    disable: Callable[[pytest.MonkeyPatch], None] | None = request.param
    if disable is not None:
        disable(monkeypatch)


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def is_nothing_left(before: tuple[set[int], set[str]]) -> bool:
    """Whether there are no more children and descriptors; those of earlier tests may have ended meanwhile."""
    return children() <= before[0] and descriptors() <= before[1]


async def test_exit_code() -> None:
    assert await asyncio.wait_for(start("raise SystemExit(7)").wait(), 20) == 7


async def test_signal_is_a_negative_code() -> None:
    child = start(SLEEPS)
    child.kill()
    assert await asyncio.wait_for(child.wait(), 20) == -signal.SIGKILL


async def test_child_that_has_ended_before_it_is_awaited() -> None:
    child = start("")
    async with asyncio.timeout(20):
        while child.pid in children():
            await asyncio.sleep(0.01)
    assert await asyncio.wait_for(child.wait(), 20) == 0


async def test_all_that_wait_get_the_code_although_one_is_cancelled() -> None:
    child = start(SLEEPS)
    waiting = [asyncio.create_task(child.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    child.send_signal(signal.SIGTERM)
    codes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)
    assert isinstance(codes[0], asyncio.CancelledError)
    assert codes[1:] == [-signal.SIGTERM] * 2


async def test_nothing_is_left_of_twenty_children() -> None:
    before, threads = (children(), descriptors()), threading.active_count()
    for _ in range(20):
        assert await asyncio.wait_for(start("").wait(), 20) == 0
    assert is_nothing_left(before)
    async with asyncio.timeout(20):
        while threading.active_count() > threads:
            await asyncio.sleep(0.01)


async def test_signal_after_the_end_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    child = start("")
    await asyncio.wait_for(child.wait(), 20)
    sent = []
    monkeypatch.setattr(os, "kill", lambda *arguments: sent.append(arguments))
    child.kill()
    assert sent == []


async def test_child_that_is_watched_no_longer_leaves_no_descriptor() -> None:
    before, child = descriptors(), start(SLEEPS)
    child.close()
    child.close()
    assert descriptors() <= before
    child.kill()
    async with asyncio.timeout(20):
        while child.pid in children():
            child.kill()  # looks whether it has ended
            await asyncio.sleep(0.01)


async def test_child_whose_end_cannot_be_watched_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children(), descriptors()

    def refuse(*_: object) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        start(SLEEPS)
    assert is_nothing_left(before)


async def test_loop_that_has_ended_before_its_child_is_told_nothing() -> None:
    """The thread that waits finds a loop that is closed; a descriptor is closed before."""
    before = descriptors()

    async def leave() -> Child:
        child = start("import time; time.sleep(0.2)")
        child.close()
        return child

    failed: list[threading.ExceptHookArgs] = []
    hook, threading.excepthook = threading.excepthook, failed.append
    try:
        child = await asyncio.to_thread(asyncio.run, leave())
        async with asyncio.timeout(20):
            while child.pid in children():
                child.send_signal(0)  # looks whether it has ended
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)
    finally:
        threading.excepthook = hook
    assert failed == []
    assert descriptors() <= before


async def test_program_that_is_not_there() -> None:
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        Child(["/nowhere/python"], {})
    assert descriptors() <= before


async def test_children_are_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork stops gRPC's threads; see also ``test_pool.py: test_refused_process_does_not_stop_grpc``."""
    spawned = []
    original = os.posix_spawn
    monkeypatch.setattr(os, "posix_spawn", lambda *args, **kwargs: spawned.append(args[0]) or original(*args, **kwargs))
    assert await asyncio.wait_for(start("").wait(), 20) == 0
    assert spawned == [sys.executable]
