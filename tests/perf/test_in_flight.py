# SPDX-License-Identifier: Apache-2.0
"""In-flight batching: a loaded server keeps its slots full, and a short request does not wait for long ones."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest

from attnserve.v1 import translation_pb2, translation_pb2_grpc
from attnserve.v1.decoding_pb2 import DecodeOptions
from attnserve_server.config import EngineConfig
from tests.e2e.serving import LONG_STEPS, LONG_TEXT, OPTIONS, SENTENCES, Server, mean_between, serve
from tests.other_work import bars

SLOTS, CLIENTS = 32, 96
ADMIT_WAIT_S = EngineConfig().admit_wait_seconds
LONG = DecodeOptions(min_tokens=40, max_tokens=40)
STEP, ROWS = "attnserve_decode_step_duration_seconds", "attnserve_batch_rows"

pytestmark = pytest.mark.quiet


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--workers", "1", "--slots", str(SLOTS), "--stream-interval-seconds", "0", "--log-level", "warning")
    with serve(tmp_path_factory.mktemp("server"), *options) as running:
        yield running


async def rows_under_load(server: Server, ramp_s: float, seconds: float) -> tuple[float, float, float]:
    """Mean rows of a step, mean seconds of a step, and answers a second, of 96 greedy clients in a closed loop.

    Answers are long, so that these clients and the front, which share a core, can keep up with the worker on any machine.
    """
    stopped, answers = False, 0
    texts = itertools.cycle(SENTENCES)

    async def client(stub: translation_pb2_grpc.TranslationServiceStub) -> None:
        nonlocal answers
        while not stopped:
            await stub.Translate(translation_pb2.TranslateRequest(text=next(texts), options=LONG), timeout=60)
            answers += 1

    async with grpc.aio.insecure_channel(server.target, options=OPTIONS) as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        tasks = [asyncio.create_task(client(stub)) for _ in range(CLIENTS)]
        await asyncio.sleep(ramp_s)
        before, began, already = await asyncio.to_thread(server.scrape), time.monotonic(), answers
        await asyncio.sleep(seconds)
        after, elapsed, done = await asyncio.to_thread(server.scrape), time.monotonic() - began, answers - already
        stopped = True
        await asyncio.gather(*tasks)
    return mean_between(before, after, ROWS), mean_between(before, after, STEP), done / elapsed


async def check_rows(server: Server, seconds: float) -> None:
    rows, step_s, rate = await rows_under_load(server, 1.0, seconds)
    print(f"{rows:.1f} of {SLOTS} rows in a step of {step_s * 1e3:.2f} ms, {rate:.0f} answers a second")
    with bars():
        assert rows >= 0.8 * SLOTS


async def test_slots_are_full_under_load(server: Server) -> None:
    await check_rows(server, 4.0)


@pytest.mark.long
async def test_slots_are_full_under_load_at_length(server: Server) -> None:
    await check_rows(server, 60.0)


@dataclass
class Arrival:
    """One short request among 31 long ones."""

    queue_s: float
    encode_s: float
    decode_s: float
    steps: int
    step_s: float

    @property
    def share(self) -> float:
        """Its time over that of its own steps and two more, at the pace of the full batch, and the wait for batch mates."""
        return (self.queue_s + self.encode_s + self.decode_s) / ((self.steps + 2) * self.step_s + ADMIT_WAIT_S)


@asynccontextmanager
async def long_requests(stub: translation_pb2_grpc.TranslationServiceStub, number: int) -> AsyncIterator[None]:
    """So many clients, each with one long request under way at all times; their ends are spread evenly over the steps."""

    async def client(first_steps: int) -> None:
        options = DecodeOptions(max_tokens=first_steps)
        while True:
            answer = await stub.Translate(translation_pb2.TranslateRequest(text=LONG_TEXT, options=options), timeout=60)
            assert len(answer.hypotheses[0].pieces) == (options.max_tokens or LONG_STEPS)
            options = DecodeOptions()

    tasks = [asyncio.create_task(client((i + 1) * LONG_STEPS // number)) for i in range(number)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends


async def arrive(server: Server, stub: translation_pb2_grpc.TranslationServiceStub, repetition: int) -> Arrival | None:
    """Sends a short request; None if the batch was not full around it."""
    request = translation_pb2.TranslateRequest(text=SENTENCES[repetition % len(SENTENCES)], options=DecodeOptions(max_tokens=3))
    before = await asyncio.to_thread(server.scrape)
    short = await stub.Translate(request, timeout=60)
    after = await asyncio.to_thread(server.scrape)  # the steps around the short one: they ran under the same load of the machine
    if mean_between(before, after, ROWS) <= 0.8 * SLOTS:
        return None
    times, steps, step_s = short.timings, len(short.hypotheses[0].pieces), mean_between(before, after, STEP)
    return Arrival(times.queue_seconds, times.encode_seconds, times.decode_seconds, steps, step_s)


async def check_short_among_long(server: Server, repetitions: int) -> None:
    async with grpc.aio.insecure_channel(server.target, options=OPTIONS) as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        async with long_requests(stub, SLOTS - 1):
            await asyncio.sleep(1.0)
            tried = [await arrive(server, stub, repetition) for repetition in range(repetitions)]
            while tried.count(None) > len(tried) - repetitions and len(tried) < 1.25 * repetitions:
                tried.append(await arrive(server, stub, len(tried)))
    arrivals = [arrival for arrival in tried if arrival is not None]
    with bars():
        assert len(arrivals) >= repetitions, f"the batch was full at {len(arrivals)} of {len(tried)} arrivals"
    shares = sorted(arrival.share for arrival in arrivals)
    p90 = shares[int(0.9 * (len(shares) - 1))]  # a few arrivals wait for others that are encoded at the same time
    middle = sorted(arrivals, key=lambda arrival: arrival.share)[repetitions // 2]
    parts = (middle.queue_s, middle.encode_s, middle.decode_s, middle.step_s)
    print("share of (its steps + 2) x the step + the wait: " + " ".join(f"{share:.2f}" for share in shares))
    print("median: queue {:.2f}, encode {:.2f}, decode {:.2f}, a step {:.2f} ms".format(*(1e3 * part for part in parts)))
    with bars():
        assert p90 <= 1.3


async def test_short_request_among_long_ones(server: Server) -> None:
    await check_short_among_long(server, 40)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_short_request_among_long_ones_at_length(server: Server) -> None:
    await check_short_among_long(server, 150)
