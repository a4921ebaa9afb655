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
from tests.e2e.serving import MODELS, Server, serve
from tests.mixing import SECONDS, Seen, load
from tests.photos import PHOTOS

MODEL = "dnl-camvid"
READERS, VIEWERS = 8, 16
"""Numbers of clients in a closed loop: of streamed translations, and of segmentations."""
ROUNDS = 3
BATCHES, LEAST_TOGETHER = 1.2, 0.9
"""Bars: by how many of the longest batches a step may be later than alone; the sum of the relative throughputs."""
UNLIMITED = VIEWERS
"""Largest batch of the planted fault: all requests that are there."""
pytestmark = pytest.mark.skipif(not (MODELS / MODEL).exists(), reason=f"{MODEL} is not in this repository")


@contextmanager
def served(folder: Path, max_batch: int = 0) -> Iterator[Server]:
    """A server of both models; 0 for the bundle's own batch limit. Each step of a stream sends a message."""
    flags = ("--workers", "1", "--stream-interval-seconds", "0", "--log-level", "warning")
    environment = {"ATTNSERVE_ENGINE_BATCHES": f"{{{MODEL} = {{max_batch = {max_batch}}}}}"} if max_batch else {}
    with serve(folder, "--models", str(repository(folder, MODEL, "transformer-en-de")), *flags, environment=environment) as server:
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

    return await load(server, readers, viewers, view)


@pytest.mark.timeout(300)
async def test_a_step_waits_for_at_most_one_batch(tmp_path: Path) -> None:
    """The same bar is missed by a server without a limit of batches, for which the longest batch of the limited one counts."""
    late, together, longest, alone_p99 = list[float](), list[float](), list[float](), list[float]()
    with served(tmp_path / "limited") as server:
        await measured(server, READERS, VIEWERS)
        for _ in range(ROUNDS):
            alone, flood = await measured(server, READERS, 0), await measured(server, 0, VIEWERS)
            both = await measured(server, READERS, VIEWERS)
            longest.append(max(both.runs))
            alone_p99.append(alone.p99)
            late.append((both.p99 - alone.p99) / longest[-1])
            together.append(both.translations / alone.translations + both.views / flood.views)
            print(
                f"between steps p99 {alone.p99 * 1e3:.1f} ms alone, {both.p99 * 1e3:.1f} ms with segmentations: "
                f"{late[-1]:.2f} of the longest batch, {longest[-1] * 1e3:.1f} ms; "
                f"{alone.translations / SECONDS:.0f} translations/s and {flood.views / SECONDS:.1f} segmentations/s alone, "
                f"{both.translations / SECONDS:.0f} and {both.views / SECONDS:.1f} together ({together[-1]:.2f})"
            )
    assert statistics.median(late) <= BATCHES
    assert statistics.median(together) >= LEAST_TOGETHER
    with served(tmp_path / "unlimited", UNLIMITED) as server:
        await measured(server, READERS, VIEWERS)
        both = await measured(server, READERS, VIEWERS)
        planted = (both.p99 - statistics.median(alone_p99)) / statistics.median(longest)
        print(f"without a limit of batches: p99 {both.p99 * 1e3:.1f} ms, {planted:.2f} of the longest batch with a limit")
    assert planted > BATCHES
