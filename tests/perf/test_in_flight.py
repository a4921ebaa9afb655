# SPDX-License-Identifier: Apache-2.0
"""In-flight batching: a loaded server keeps its slots full, and a short request does not wait for long ones."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest

from attnserve.v1 import translation_pb2, translation_pb2_grpc
from attnserve.v1.decoding_pb2 import DecodeOptions
from tests.e2e.serving import LONG_STEPS, LONG_TEXT, OPTIONS, SENTENCES, Samples, Server, mean_between, serve

SLOTS, CLIENTS = 32, 96
LONG = DecodeOptions(min_tokens=40, max_tokens=40)
STEP, ROWS = "attnserve_decode_step_duration_seconds", "attnserve_batch_rows"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("server"), "--workers", "1", "--slots", str(SLOTS), "--log-level", "warning") as running:
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
    num_earlier: int
    """Long requests that were answered before it."""

    @property
    def share(self) -> float:
        """Its time, in parts of that of its own steps and two more, at the pace of the full batch."""
        return (self.queue_s + self.encode_s + self.decode_s) / ((self.steps + 2) * self.step_s)


async def arrive(server: Server, stub: translation_pb2_grpc.TranslationServiceStub, repetition: int) -> Arrival:
    long_request = translation_pb2.TranslateRequest(text=LONG_TEXT)
    longs = [asyncio.ensure_future(stub.Translate(long_request, timeout=60)) for _ in range(SLOTS - 2)]
    witness = stub.TranslateStream(translation_pb2.TranslateStreamRequest(text=LONG_TEXT), timeout=60)
    for _ in range(8 + repetition % 7):  # all long ones decode, each repetition begins elsewhere
        await witness.read()
    request = translation_pb2.TranslateRequest(text=SENTENCES[repetition], options=DecodeOptions(max_tokens=3))
    before = await asyncio.to_thread(server.http, "/metrics")
    short = await stub.Translate(request, timeout=60)
    num_earlier = sum(task.done() for task in longs)
    after = await asyncio.to_thread(server.http, "/metrics")
    while await witness.read() is not grpc.aio.EOF:
        pass
    answers = await asyncio.gather(*longs)
    assert all(len(answer.hypotheses[0].pieces) == LONG_STEPS for answer in answers)
    interval = Samples(before[1]), Samples(after[1])  # the steps around the short one: they ran under the same load of the machine
    assert mean_between(*interval, ROWS) > SLOTS - 2
    times, steps, step_s = short.timings, len(short.hypotheses[0].pieces), mean_between(*interval, STEP)
    return Arrival(times.queue_seconds, times.encode_seconds, times.decode_seconds, steps, step_s, num_earlier)


async def check_short_among_long(server: Server, repetitions: int) -> None:
    async with grpc.aio.insecure_channel(server.target, options=OPTIONS) as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        arrivals = [await arrive(server, stub, repetition) for repetition in range(repetitions)]
    assert all(arrival.num_earlier == 0 for arrival in arrivals), "a long request was answered before the short one"
    shares = sorted(arrival.share for arrival in arrivals)
    p95 = shares[int(0.95 * (len(shares) - 1))]
    middle = sorted(arrivals, key=lambda arrival: arrival.share)[repetitions // 2]
    parts = (middle.queue_s, middle.encode_s, middle.decode_s, middle.step_s)
    print("share of (its steps + 2) x the step: " + " ".join(f"{share:.2f}" for share in shares))
    print("median: queue {:.2f}, encode {:.2f}, decode {:.2f}, a step {:.2f} ms".format(*(1e3 * part for part in parts)))
    assert p95 <= 1.3


async def test_short_request_among_long_ones(server: Server) -> None:
    await check_short_among_long(server, 20)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_short_request_among_long_ones_at_length(server: Server) -> None:
    await check_short_among_long(server, 150)
