# SPDX-License-Identifier: Apache-2.0
"""Short texts inline, long ones on a thread, too many refused."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

import grpc
import pytest

from attnserve.v1.translation_pb2 import TranslateRequest
from attnserve_server.dataplane.offload import MAX_INLINE_CHARS, MAX_PENDING, Preparing
from attnserve_server.errors import Overloaded, ShuttingDown
from tests.fakes.dataplane import Source, Translator
from tests.unit.server_shell.conftest import Shell, until
from tests.unit.server_shell.test_rpc import failure, reason

LONG = "x" * (MAX_INLINE_CHARS + 1)


class SlowTranslator(Translator):
    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()

    def encode(self, text: str) -> Source:
        self.may_go_on.wait(10)
        return super().encode(text)


async def encode(tokenizing: Preparing, translator: Translator, text: str) -> Source:
    return await tokenizing.run(len(text), functools.partial(translator.encode, text))


async def test_long_texts_wait_in_a_bounded_queue() -> None:
    tokenizing, translator = Preparing("tokenizer", "long texts"), SlowTranslator()
    waiting = [asyncio.ensure_future(encode(tokenizing, translator, LONG)) for _ in range(MAX_PENDING)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await encode(tokenizing, translator, LONG)
    for task in waiting[10:]:
        task.cancel()  # their clients left: those without a thread yet give up their places
    await asyncio.sleep(0)
    late = asyncio.ensure_future(encode(tokenizing, translator, LONG))
    await asyncio.sleep(0)
    translator.may_go_on.set()
    for task in (*waiting[:10], late):
        assert len((await task).tokens) == len(LONG) + 1
    assert len(translator.threads) == 11
    tokenizing.close()


async def test_thread_that_is_refused_costs_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    tokenizing, translator = Preparing("tokenizer", "long texts"), Translator()
    with monkeypatch.context() as refusing:
        refusing.setattr(threading.Thread, "start", refuse)
        for _ in range(MAX_PENDING + 1):
            with pytest.raises(Overloaded, match="no thread for long texts now"):
                await encode(tokenizing, translator, LONG)
    assert len((await encode(tokenizing, translator, LONG)).tokens) == len(LONG) + 1
    tokenizing.close()


async def test_work_after_the_end_is_refused_as_of_a_server_that_stops() -> None:
    tokenizing = Preparing("tokenizer", "long texts")
    tokenizing.close()
    with pytest.raises(ShuttingDown):
        await tokenizing.finish(lambda: "answer")
    for _ in range(MAX_PENDING + 1):
        with pytest.raises(ShuttingDown):
            await encode(tokenizing, Translator(), LONG)


async def test_short_texts_need_no_place() -> None:
    tokenizing, translator = Preparing("tokenizer", "long texts"), Translator()
    await asyncio.gather(*(encode(tokenizing, translator, "short") for _ in range(MAX_PENDING * 2)))
    assert set(translator.threads) == {"MainThread"}
    tokenizing.close()


@pytest.fixture
def may_go_on(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Texts of the shell's model are tokenized once this is set."""
    event, translator = threading.Event(), shell.front.models()[0].task
    encode = translator.encode
    monkeypatch.setattr(translator, "encode", lambda text: encode(text) if event.wait(30) else None)
    return event


def translate(shell: Shell, text: str = LONG) -> Any:
    return shell.translation.Translate(TranslateRequest(text=text))


async def test_text_that_came_before_a_stop_is_answered_and_a_later_one_refused(shell: Shell, may_go_on: threading.Event) -> None:
    call = asyncio.ensure_future(translate(shell))
    await until(lambda: shell.plane.num_preparing == 1)
    shell.front.draining.end()
    error = await failure(translate(shell, "a"))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    may_go_on.set()
    assert (await call).hypotheses[0].text == LONG.upper()
    assert shell.plane.num_preparing == 0


async def test_texts_that_are_not_tokenized_in_time_when_the_server_stops_get_unavailable(
    shell: Shell, may_go_on: threading.Event
) -> None:
    calls = [asyncio.ensure_future(failure(translate(shell))) for _ in range(4)]  # some wait for a thread
    await until(lambda: shell.plane.num_preparing == 4)
    shell.plane.close()
    for error in await asyncio.gather(*calls):
        assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert not may_go_on.is_set()
    assert not shell.front.tickets
    may_go_on.set()
