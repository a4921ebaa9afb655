# SPDX-License-Identifier: Apache-2.0
"""A client that disconnects frees its slots within one step, by the server's metrics while other requests are decoded."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attnserve.v1.decoding_pb2 import DecodeOptions
from tests.e2e.serving import LONG_TEXT, SENTENCES, Samples, Server, ask, eventually, mean_between, start_stream, start_unary, texts

BACKGROUND, LEAVERS = 3, 8
NUM_PARTS = 8
SENTENCE_BY_SENTENCE = " ".join([f"Red {LONG_TEXT}."] * NUM_PARTS)
"""As many requests to the engine, each of which counts: together they take long."""
STEP = "attnserve_decode_step_duration_seconds"

pytestmark = pytest.mark.load


@pytest.fixture
def background(server: Server) -> Iterator[None]:
    """Long requests, one after the other, of three clients on a separate connection."""
    stop, failures = threading.Event(), []

    def client() -> None:
        try:
            while not stop.is_set():
                ask(channel, LONG_TEXT)
        except grpc.RpcError as error:
            failures.append(error)

    with server.channel() as channel:
        threads = [threading.Thread(target=client) for _ in range(BACKGROUND)]
        for thread in threads:
            thread.start()
        yield
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not failures


def cancelled(server: Server, reason: str) -> float:
    return server.scrape().total("attnserve_requests_cancelled_total", reason=reason)


def ended(server: Server) -> float:
    """Number of requests that were dropped because their clients had left, and those that were done first."""
    return cancelled(server, "client") + server.scrape().total("attnserve_decode_duration_seconds_count")


def used(server: Server) -> float:
    return server.scrape().total("attnserve_slots", state="used")


def crowded_steps(samples: Samples) -> float:
    """Number of steps so far with more rows than the background load."""
    name = "attnserve_batch_rows"
    return samples.total(f"{name}_count") - samples.total(f"{name}_bucket", le=f"{BACKGROUND}.0")


def leave_once(server: Server, channel: grpc.Channel) -> float:
    """Eight streams begin and disconnect; returns the steps that still had their rows, minus those during message transfer."""
    health = health_pb2_grpc.HealthStub(channel)
    started = server.scrape()
    streams = [start_stream(channel, LONG_TEXT) for _ in range(LEAVERS)]
    for stream in streams:
        next(stream)
    began = time.monotonic()
    at_cancel = server.http("/metrics")[1]
    for stream in streams:
        stream.cancel()
    health.Check(health_pb2.HealthCheckRequest(), timeout=20)  # on the same connection, so the server has read the cancels too
    on_the_way = time.monotonic() - began
    eventually(lambda: used(server) <= BACKGROUND, "the slots of the 8 free")
    time.sleep(0.1)  # another report at least
    before, after = Samples(at_cancel), server.scrape()
    return crowded_steps(after) - crowded_steps(before) - on_the_way / mean_between(started, before, STEP)


@pytest.mark.usefixtures("background")
def test_streams_that_leave_free_their_slots_within_a_step(server: Server, channel: grpc.Channel) -> None:
    before = cancelled(server, "client")
    late = [leave_once(server, channel) for _ in range(10)]
    assert cancelled(server, "client") > before + 2 * LEAVERS, "almost all were done before they were cancelled"
    print(f"steps with the leavers' rows, beyond the messages' way: {[round(steps, 1) for steps in late]}")
    assert statistics.median(late) <= 2
    assert max(late) < 30, "far from the 100 steps that were left to do"


def test_nothing_stays_behind(server: Server, channel: grpc.Channel) -> None:
    eventually(lambda: used(server) == 0, "all slots free")
    futures = [start_unary(channel, text) for text in SENTENCES[:32]]
    assert [texts(future.result()) for future in futures] == [texts(ask(channel, text)) for text in SENTENCES[:32]]
    eventually(lambda: used(server) == 0, "all slots free")
    assert server.scrape().total("attnserve_slots", model="transformer-en-de", state="free") == 32
    server.assert_unharmed()


def test_unary_client_that_leaves(server: Server, channel: grpc.Channel) -> None:
    before, all_before = cancelled(server, "client"), ended(server)
    futures = [start_unary(channel, SENTENCE_BY_SENTENCE, DecodeOptions(beam_size=8), split_sentences=True) for _ in range(4)]
    eventually(lambda: used(server) >= 32, "32 rows in the batch")
    for future in futures:
        future.cancel()
    seconds = eventually(lambda: used(server) == 0, "slots free")
    assert ended(server) == all_before + 4 * NUM_PARTS
    assert cancelled(server, "client") > before, "all were done before they were cancelled"
    print(f"free after {seconds * 1e3:.0f} ms")


def test_client_that_leaves_the_queue(server: Server, channel: grpc.Channel) -> None:
    before, all_before = cancelled(server, "client"), ended(server)
    futures = [start_unary(channel, SENTENCE_BY_SENTENCE, DecodeOptions(beam_size=8), split_sentences=True) for _ in range(12)]
    eventually(lambda: used(server) >= 32, "32 rows in the batch")
    for future in reversed(futures):
        future.cancel()
    eventually(lambda: used(server) == 0, "slots free")
    eventually(lambda: ended(server) == all_before + 12 * NUM_PARTS, "12 cancelled")
    assert cancelled(server, "client") > before + 4, "those that waited were done before they were cancelled"
    assert server.scrape().total("attnserve_queue_length") == 0
    assert texts(ask(channel, SENTENCES[0]))


def test_whole_connection_lost(server: Server) -> None:
    before, all_before = cancelled(server, "client"), ended(server)
    with server.channel() as own:
        streams = [start_stream(own, LONG_TEXT) for _ in range(LEAVERS)]
        for stream in streams:
            next(stream)
    eventually(lambda: used(server) == 0, "slots free")
    eventually(lambda: ended(server) == all_before + LEAVERS, "8 cancelled")
    assert cancelled(server, "client") > before, "all were done before the connection was closed"


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_deadline_while_decoding(server: Server, channel: grpc.Channel, kind: str) -> None:
    start, wide = server.scrape(), DecodeOptions(beam_size=8)
    with contextlib.ExitStack() as others:
        for _ in range(2):  # so that a step takes long enough
            others.callback(start_unary(channel, LONG_TEXT, wide).cancel)
        for _ in range(10):
            with pytest.raises(grpc.RpcError) as raised:
                ask(channel, LONG_TEXT, wide, kind=kind, timeout=0.03)
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: used(server) == 0, "slots free")
    after, name = server.scrape(), "attnserve_requests_cancelled_total"
    late, left = (after.total(name, reason=reason) - start.total(name, reason=reason) for reason in ("deadline", "client"))
    refused = after.total("attnserve_requests_rejected_total") - start.total("attnserve_requests_rejected_total")
    assert late + left + refused in (10, 11, 12), "ten deadlines, and two others that left where they were not done"
    assert late > 0, "not all: the client's own clock may run out first, and then it leaves before the server's deadline"


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("background")
def test_leavers_at_length(server: Server, channel: grpc.Channel) -> None:
    late = [leave_once(server, channel) for _ in range(200)]
    assert statistics.median(late) <= 2
    server.assert_unharmed()
