# SPDX-License-Identifier: Apache-2.0
"""Streamed translations beside requests of another kind: clients in a closed loop, and what they measure."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from attnserve.v1 import translation_pb2, translation_pb2_grpc
from tests.e2e.serving import OPTIONS, SENTENCES, Server

RAMP_S, SECONDS = 0.5, 3.0
View = Callable[[grpc.aio.Channel], Awaitable[float]]
"""Sends one request of the other kind; returns the seconds of its run in the worker, or 0 if its answer does not say."""


@dataclass
class Seen:
    """The clients' measurements of a time span."""

    translations: int = 0
    pieces: int = 0
    views: int = 0
    gaps: list[float] = field(default_factory=list)
    """Seconds between pieces."""
    runs: list[float] = field(default_factory=list)
    """Seconds of the runs of the other kind."""

    @property
    def p99(self) -> float:
        return float(np.quantile(self.gaps, 0.99))

    @property
    def p99_of_time(self) -> float:
        """The length that the gap around a moment does not exceed for 99 % of all moments: rare but long gaps count by their length."""
        gaps = np.sort(self.gaps)
        return float(gaps[np.searchsorted(gaps.cumsum(), 0.99 * gaps.sum())])


async def load(server: Server, readers: int, viewers: int, view: View, texts: Sequence[str] = SENTENCES) -> Seen:
    """Runs so many clients of each kind for a time, of streams of these texts; measurements while they start and end do not count."""
    seen, counts, ends = Seen(), False, False
    asked = itertools.cycle(texts)

    async def read(channel: grpc.aio.Channel) -> None:
        stub, latest = translation_pb2_grpc.TranslationServiceStub(channel), None
        async for message in stub.TranslateStream(translation_pb2.TranslateStreamRequest(text=next(asked)), timeout=60):
            now = time.perf_counter()
            if message.WhichOneof("event") == "result":
                seen.translations += counts
            elif counts:
                seen.pieces += len(message.delta.pieces)
                if latest is not None:
                    seen.gaps.append(now - latest)
            latest = now

    async def look(channel: grpc.aio.Channel) -> None:
        seconds = await view(channel)
        if counts:
            seen.views += 1
            seen.runs.append(seconds)

    async def again(ask: Callable[[grpc.aio.Channel], Awaitable[None]], channel: grpc.aio.Channel) -> None:
        while not ends:
            await ask(channel)

    async with grpc.aio.insecure_channel(server.target, options=OPTIONS) as channel:
        tasks = [asyncio.create_task(again(read, channel)) for _ in range(readers)]
        tasks += [asyncio.create_task(again(look, channel)) for _ in range(viewers)]
        await asyncio.sleep(RAMP_S)
        counts = True
        await asyncio.sleep(SECONDS)
        counts, ends = False, True
        await asyncio.gather(*tasks)
    return seen
