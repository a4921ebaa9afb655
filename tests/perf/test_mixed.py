# SPDX-License-Identifier: Apache-2.0
"""Captions and translations on the same workers: images do not delay streamed translations, and throughput is not lost."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest

from attnserve.v1 import caption_pb2, caption_pb2_grpc, translation_pb2, translation_pb2_grpc
from tests.e2e.captioning import serve_captions
from tests.e2e.serving import OPTIONS, SENTENCES, Server
from tests.photos import variations

READERS, VIEWERS = 8, 4
"""Numbers of clients in a closed loop: of streamed translations, and of captions."""
RAMP_S, SECONDS, ROUNDS = 0.5, 3.0, 3
MOST_WAITING, LEAST_TOGETHER = 3.0, 0.9


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_captions(tmp_path_factory.mktemp("server"), "--log-level", "warning") as running:
        yield running


@dataclass
class Seen:
    """The clients' measurements of a time span."""

    translations: int = 0
    captions: int = 0
    gaps: list[float] = field(default_factory=list)
    """Seconds between pieces."""

    @property
    def p99(self) -> float:
        return float(np.quantile(self.gaps, 0.99))


async def load(server: Server, readers: int, viewers: int, images: list[bytes]) -> Seen:
    """Runs clients for a time; measurements while they start and end do not count."""
    seen, counts, ends = Seen(), False, False
    texts, files = itertools.cycle(SENTENCES), itertools.cycle(images)

    async def read(stub: translation_pb2_grpc.TranslationServiceStub) -> None:
        latest = None
        async for message in stub.TranslateStream(translation_pb2.TranslateStreamRequest(text=next(texts)), timeout=60):
            now = time.perf_counter()
            if message.WhichOneof("event") == "result":
                seen.translations += counts
            elif latest is not None and counts:
                seen.gaps.append(now - latest)
            latest = now

    async def view(stub: caption_pb2_grpc.CaptionServiceStub) -> None:
        await stub.Caption(caption_pb2.CaptionRequest(image=next(files)), timeout=60)
        seen.captions += counts

    async def again(ask: Callable[[], Awaitable[None]]) -> None:
        while not ends:
            await ask()

    async with grpc.aio.insecure_channel(server.target, options=OPTIONS) as channel:
        translator, captioner = translation_pb2_grpc.TranslationServiceStub(channel), caption_pb2_grpc.CaptionServiceStub(channel)
        tasks = [asyncio.create_task(again(lambda: read(translator))) for _ in range(readers)]
        tasks += [asyncio.create_task(again(lambda: view(captioner))) for _ in range(viewers)]
        await asyncio.sleep(RAMP_S)
        counts = True
        await asyncio.sleep(SECONDS)
        counts, ends = False, True
        await asyncio.gather(*tasks)
    return seen


async def test_images_and_texts_share_the_workers(server: Server) -> None:
    images = variations(32)
    await load(server, READERS, VIEWERS, images)
    waiting, together = list[float](), list[float]()
    for _ in range(ROUNDS):
        texts_alone, images_alone = await load(server, READERS, 0, images), await load(server, 0, VIEWERS, images)
        both = await load(server, READERS, VIEWERS, images)
        waiting.append(both.p99 / texts_alone.p99)
        together.append(both.translations / texts_alone.translations + both.captions / images_alone.captions)
        print(
            f"between pieces p99 {texts_alone.p99 * 1e3:.1f} ms alone, {both.p99 * 1e3:.1f} ms with images ({waiting[-1]:.2f}); "
            f"{texts_alone.translations / SECONDS:.0f} translations/s and {images_alone.captions / SECONDS:.0f} captions/s alone, "
            f"{both.translations / SECONDS:.0f} and {both.captions / SECONDS:.0f} together ({together[-1]:.2f})"
        )
    assert statistics.median(waiting) <= MOST_WAITING
    assert statistics.median(together) >= LEAST_TOGETHER
