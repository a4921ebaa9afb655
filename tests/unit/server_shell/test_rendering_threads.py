# SPDX-License-Identifier: Apache-2.0
"""Segmentations are rendered off the event loop, on threads of their own, which never refuse them."""

from __future__ import annotations

import asyncio
import threading
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


class Held:
    """Replaces the encoding of PNG files by a wait for ``may_end``, which only holds its own thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float = 30.0) -> None:
        self.seconds, self.num_begun, self.may_end = seconds, 0, threading.Event()
        monkeypatch.setattr(ClassMap, "png", lambda *_: self())

    def __call__(self) -> bytes:
        self.num_begun += 1
        return b"made" if self.may_end.wait(self.seconds) else b"not let"


async def answer_let_by_the_loop(shell: Shell, held: Held) -> bytes:
    """An answer whose making ends when the event loop lets it."""
    call = asyncio.ensure_future(segment(shell, picture()))
    await until(lambda: held.num_begun == 1)
    held.may_end.set()
    return bytes((await call).map.png)


async def test_loop_runs_while_answers_are_made(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    assert await answer_let_by_the_loop(shell, held) == b"made"
    assert held.num_begun == 1


async def test_loop_that_makes_answers_itself_is_seen(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    class Inline(plane.Pending):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args[:5])

    monkeypatch.setattr(plane, "Pending", Inline)
    assert await answer_let_by_the_loop(shell, Held(monkeypatch, 0.3)) == b"not let"


async def test_answers_are_made_where_new_images_are_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model has run for them: they wait for a thread, however many do."""
    monkeypatch.setattr("attnserve_server.dataplane.offload.MAX_PENDING", 1)
    held = Held(monkeypatch)
    calls = [asyncio.ensure_future(segment(shell, picture()))]
    await until(lambda: held.num_begun == 1)
    for number in range(2, 6):  # each is prepared beside those whose answers are made
        calls.append(asyncio.ensure_future(segment(shell, picture())))
        await until(lambda number=number: len(shell.front.payloads) == number)
    held.may_end.set()
    assert all(answer.map.png == b"made" for answer in await asyncio.gather(*calls))


async def test_answers_do_not_wait_behind_images_that_are_decoded() -> None:
    preparing, decoded = offload.Preparing("decoder", "images"), threading.Event()
    decoding = [asyncio.ensure_future(preparing.run(None, lambda: decoded.wait(30))) for _ in range(offload.MAX_PENDING)]
    try:
        assert await asyncio.wait_for(preparing.finish(lambda: "made"), 25) == "made"
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
    draining = asyncio.ensure_future(shell.plane.drain(60))
    await shell.plane.drain(0.05)
    assert (shell.plane.num_expected, draining.done()) == (4, False)
    made.set()
    await asyncio.wait_for(draining, 30)
    assert [(await call).map.png for call in calls] == [b"made"] * 4
