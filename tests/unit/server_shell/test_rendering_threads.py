# SPDX-License-Identifier: Apache-2.0
"""Segmentations are rendered off the event loop, on threads of their own, which never refuse them."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from attnserve_server.dataplane import offload, plane
from attnserve_server.errors import ShuttingDown
from attnserve_server.tasks.class_map import ClassMap
from tests.fakes.pass_models import PassFront
from tests.unit.server_shell.conftest import Shell, ShellFactory, until
from tests.unit.server_shell.test_segmentation import picture, segment


@pytest.fixture
async def shell(make_shell: ShellFactory) -> Shell:
    return await make_shell(PassFront())


class Pause:
    """Replaces the encoding of PNG files by a pause that only holds its own thread."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.num_begun = seconds, 0

    def __call__(self, made: ClassMap, palette: bytes) -> bytes:
        self.num_begun += 1
        time.sleep(self.seconds)
        return b"made"


async def longest_gap(work: Any) -> float:
    """The longest time for which the event loop did not run while something was awaited."""
    longest, task = 0.0, asyncio.ensure_future(work)
    last = time.monotonic()
    while not task.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    await task
    return longest


async def test_loop_runs_while_answers_are_made(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = Pause(0.6)
    monkeypatch.setattr(ClassMap, "png", lambda *args: pause(*args))
    assert await longest_gap(segment(shell, picture())) < 0.3
    assert pause.num_begun == 1


async def test_loop_that_makes_answers_itself_is_seen(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    class Inline(plane.Pending):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args[:5])

    monkeypatch.setattr(plane, "Pending", Inline)
    pause = Pause(0.6)
    monkeypatch.setattr(ClassMap, "png", lambda *args: pause(*args))
    assert await longest_gap(segment(shell, picture())) > 0.5


async def test_answers_are_made_where_new_images_are_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model has run for them: they wait for a thread, however many do."""
    monkeypatch.setattr("attnserve_server.dataplane.offload.MAX_PENDING", 1)
    pause = Pause(0.2)
    monkeypatch.setattr(ClassMap, "png", lambda *args: pause(*args))
    calls = [asyncio.ensure_future(segment(shell, picture()))]
    await until(lambda: pause.num_begun == 1)
    for number in range(2, 6):  # each is prepared beside those whose answers are made
        calls.append(asyncio.ensure_future(segment(shell, picture())))
        await until(lambda number=number: len(shell.front.payloads) == number)
    assert all(answer.map.png == b"made" for answer in await asyncio.gather(*calls))


async def test_answers_do_not_wait_behind_images_that_are_decoded() -> None:
    preparing, decoded = offload.Preparing("decoder", "images"), threading.Event()
    decoding = [asyncio.ensure_future(preparing.run(None, lambda: decoded.wait(30))) for _ in range(offload.MAX_PENDING)]
    try:
        assert await asyncio.wait_for(preparing.finish(lambda: "made"), 10) == "made"
        assert not any(each.done() for each in decoding)
    finally:
        decoded.set()
        assert all(await asyncio.gather(*decoding))
        preparing.close()


async def test_answer_that_waits_for_a_thread_when_the_threads_end_is_shut_down_and_those_on_threads_are_made() -> None:
    preparing, may_end = offload.Preparing("decoder", "images"), threading.Event()
    begun = [threading.Event(), threading.Event()]
    making = [asyncio.ensure_future(preparing.finish(lambda each=each: each.set() or may_end.wait(30))) for each in begun]
    await until(lambda: all(each.is_set() for each in begun))
    waiting = asyncio.ensure_future(preparing.finish(lambda: "made"))
    await asyncio.sleep(0)
    preparing.close()
    with pytest.raises(ShuttingDown):
        await waiting
    may_end.set()
    assert await asyncio.gather(*making) == [True, True]


async def test_shutdown_waits_for_answers_that_are_made(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    made = threading.Event()
    monkeypatch.setattr(ClassMap, "png", lambda *_: b"made" if made.wait(30) else b"")
    calls = [asyncio.ensure_future(segment(shell, picture())) for _ in range(4)]
    await until(lambda: shell.plane.num_expected == 4)
    draining = asyncio.ensure_future(shell.plane.drain(30))
    await shell.plane.drain(0.05)
    assert (shell.plane.num_expected, draining.done()) == (4, False)
    made.set()
    await asyncio.wait_for(draining, 10)
    assert [(await call).map.png for call in calls] == [b"made"] * 4
