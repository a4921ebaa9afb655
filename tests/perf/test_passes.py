# SPDX-License-Identifier: Apache-2.0
"""Streamed translations beside a flood of segmentations on one worker: a step waits for at most one batch."""

from __future__ import annotations

import io
import itertools
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from PIL import Image, ImageOps

from attnserve.v1 import segmentation_pb2, segmentation_pb2_grpc
from tests.e2e.captioning import repository
from tests.e2e.mixing import SECONDS, Seen, load
from tests.e2e.serving import LONG_TEXT, MODELS, Server, serve
from tests.other_work import bars
from tests.photos import PHOTOS

MODEL = "dnl-camvid"
READERS, VIEWERS = 16, 16
"""Numbers of clients in a closed loop: of streamed translations of many steps, and of segmentations."""
ROUNDS = 3
TEXTS = [" ".join(LONG_TEXT.split()[:count]) for count in (9, 40, 17, 28, 13, 34, 22)]
"""Of different lengths: streams that began together would also end together, and a batch would run between them, where no step waits."""
BATCHES, LEAST_TOGETHER = 1.2, 0.9
"""Bars: by how many of the longest batches a step may be later than alone; the sum of the relative throughputs."""
pytestmark = [pytest.mark.quiet, pytest.mark.skipif(not (MODELS / MODEL).exists(), reason=f"{MODEL} is not in this repository")]


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    """A server of both models. Each step of a stream sends a message."""
    flags = ("--workers", "1", "--stream-interval-seconds", "0", "--log-level", "warning")
    with serve(folder, "--models", str(repository(folder, MODEL, "transformer-en-de")), *flags) as server:
        yield server


def pictures() -> Iterator[bytes]:
    """The project's photos, of one size of the model, so that any of them share a batch; again and again."""
    found = []
    for path in PHOTOS:
        file = io.BytesIO()
        with Image.open(path) as photo:
            ImageOps.fit(photo.convert("RGB"), (480, 360)).save(file, "JPEG")
        found.append(file.getvalue())
    return itertools.cycle(found)


async def measured(server: Server, readers: int, viewers: int) -> Seen:
    files = pictures()

    async def view(channel: grpc.aio.Channel) -> float:
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        answer = await stub.Segment(segmentation_pb2.SegmentRequest(image=next(files)), timeout=60)
        return answer.timings.run_seconds

    return await load(server, readers, viewers, view, TEXTS)


@pytest.mark.timeout(300)
async def test_a_step_waits_for_at_most_one_batch(tmp_path: Path) -> None:
    """A larger batch than the limit is seen in ``unit/engine/test_time_slices.py``: here the streams soon begin after a batch and end before
    the next one, so no step waits for it."""
    late, together, longest = list[float](), list[float](), list[float]()
    with served(tmp_path / "limited") as server:
        await measured(server, READERS, VIEWERS)
        for _ in range(ROUNDS):
            alone, flood = await measured(server, READERS, 0), await measured(server, 0, VIEWERS)
            both = await measured(server, READERS, VIEWERS)
            longest.append(max(both.runs))
            late.append((both.p99_of_time - alone.p99_of_time) / longest[-1])
            with bars():
                assert both.p99 <= alone.p99 + BATCHES * longest[-1]
            together.append(both.pieces / alone.pieces + both.views / flood.views)
            print(
                f"between steps p99 of the time {alone.p99_of_time * 1e3:.1f} ms alone, {both.p99_of_time * 1e3:.1f} ms with segmentations: "
                f"{late[-1]:.2f} of the longest batch, {longest[-1] * 1e3:.1f} ms; "
                f"{alone.pieces / SECONDS:.0f} pieces/s and {flood.views / SECONDS:.1f} segmentations/s alone, "
                f"{both.pieces / SECONDS:.0f} and {both.views / SECONDS:.1f} together ({together[-1]:.2f})"
            )
    with bars():
        assert statistics.median(late) <= BATCHES
        assert statistics.median(together) >= LEAST_TOGETHER
