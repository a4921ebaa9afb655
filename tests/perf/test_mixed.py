# SPDX-License-Identifier: Apache-2.0
"""Captions and translations on the same workers: images do not delay streamed translations, and throughput is not lost."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator

import grpc
import pytest

from attnserve.v1 import caption_pb2, caption_pb2_grpc
from tests.e2e.captioning import serve_captions
from tests.e2e.mixing import SECONDS, load
from tests.e2e.serving import Server
from tests.other_work import bars
from tests.photos import variations

READERS, VIEWERS = 8, 4
"""Numbers of clients in a closed loop: of streamed translations, and of captions."""
ROUNDS = 3
MOST_WAITING, LEAST_TOGETHER = 3.0, 0.9

pytestmark = pytest.mark.quiet


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_captions(tmp_path_factory.mktemp("server"), "--log-level", "warning") as running:
        yield running


async def test_images_and_texts_share_the_workers(server: Server) -> None:
    images = itertools.cycle(variations(32))

    async def view(channel: grpc.aio.Channel) -> float:
        await caption_pb2_grpc.CaptionServiceStub(channel).Caption(caption_pb2.CaptionRequest(image=next(images)), timeout=60)
        return 0.0

    await load(server, READERS, VIEWERS, view)
    waiting, together = list[float](), list[float]()
    for _ in range(ROUNDS):
        texts_alone, images_alone = await load(server, READERS, 0, view), await load(server, 0, VIEWERS, view)
        both = await load(server, READERS, VIEWERS, view)
        waiting.append(both.p99 / texts_alone.p99)
        together.append(both.translations / texts_alone.translations + both.views / images_alone.views)
        print(
            f"between pieces p99 {texts_alone.p99 * 1e3:.1f} ms alone, {both.p99 * 1e3:.1f} ms with images ({waiting[-1]:.2f}); "
            f"{texts_alone.translations / SECONDS:.0f} translations/s and {images_alone.views / SECONDS:.0f} captions/s alone, "
            f"{both.translations / SECONDS:.0f} and {both.views / SECONDS:.0f} together ({together[-1]:.2f})"
        )
    with bars():
        assert statistics.median(waiting) <= MOST_WAITING
        assert statistics.median(together) >= LEAST_TOGETHER
