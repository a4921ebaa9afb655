# SPDX-License-Identifier: Apache-2.0
"""Short texts inline, long ones on a thread, too many refused."""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest

from attnserve_server.dataplane.offload import MAX_INLINE_CHARS, MAX_PENDING, Preparing
from attnserve_server.errors import Overloaded
from tests.fakes.dataplane import Source, Translator

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


async def test_short_texts_need_no_place() -> None:
    tokenizing, translator = Preparing("tokenizer", "long texts"), Translator()
    await asyncio.gather(*(encode(tokenizing, translator, "short") for _ in range(MAX_PENDING * 2)))
    assert set(translator.threads) == {"MainThread"}
    tokenizing.close()
