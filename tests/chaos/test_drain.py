# SPDX-License-Identifier: Apache-2.0
"""SIGTERM under load, for clients without retries: admitted requests are answered, new ones are refused, the exit code is 0."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attnserve.v1.classification_pb2 import ClassifyVideoRequest
from attnserve.v1.classification_pb2_grpc import ClassificationServiceStub
from attnserve.v1.decoding_pb2 import DecodeOptions
from attnserve_server.debugging import snapshot
from tests.clips import needs_decoder, slow_gif
from tests.e2e.captioning import repository
from tests.e2e.serving import (
    LONG_TEXT,
    SENTENCES,
    Server,
    ask,
    details,
    eventually,
    is_alive,
    serve,
    start_stream,
    start_unary,
    texts,
    wait_for_arrival,
)
from tests.stopping import stopped

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
WIDE = DecodeOptions(beam_size=4, num_hypotheses=4)
NUM_FRAMES = 120
"""Of a clip that is decoded in seconds; with four busy loops beside it, 250 took 89 s of the drain's 90."""
CHANGED_S = 1.0
"""The two threads that see the change of health and the first refusal may run in any order."""

pytestmark = pytest.mark.load


class Watcher:
    """A health watch: the states that it received, and when."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.seen: list[tuple[int, float]] = []
        self._thread = threading.Thread(target=self._run, args=(health_pb2_grpc.HealthStub(channel),))
        self._thread.start()
        eventually(lambda: bool(self.seen), "the first state")

    def _run(self, stub: health_pb2_grpc.HealthStub) -> None:
        try:
            for response in stub.Watch(health_pb2.HealthCheckRequest(), timeout=90):
                self.seen.append((response.status, time.monotonic()))
        except grpc.RpcError:
            pass

    def finish(self) -> list[int]:
        self._thread.join(30)
        return [status for status, _ in self.seen]


def probe_until_refused(server: Server, channel: grpc.Channel) -> tuple[grpc.RpcError, float]:
    """Sends one short request after the other until one is refused; those that are admitted while the workers are stopped end late."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            ask(channel, SENTENCES[0], DecodeOptions(max_tokens=1), timeout=1.0)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                return error, time.monotonic()
    raise AssertionError("no request was refused")


def drain_under_load(server: Server, num_each: int, *, to_all: bool = False) -> None:
    with server.channel() as channel, server.channel() as probes, ThreadPoolExecutor(2 * num_each + 1) as threads:
        greedy, beams = texts(ask(channel, LONG_TEXT)), texts(ask(channel, LONG_TEXT, WIDE))
        watcher = Watcher(probes)
        with stopped(*server.workers.values()):  # so that none is answered before all are there
            streams = [start_stream(channel, LONG_TEXT) for _ in range(num_each)]
            unary = [start_unary(channel, LONG_TEXT, WIDE) for _ in range(num_each)]
            wait_for_arrival(channel)
            rest = [threads.submit(list, stream) for stream in streams]
        prober = threads.submit(probe_until_refused, server, probes)
        eventually(lambda: server.scrape().total("attnserve_slots", state="used") >= 4.5 * num_each, "most of them decode")
        with stopped(*server.workers.values()):  # so that the drain goes on meanwhile
            for pid in (*(server.children() if to_all else ()), server.process.pid):
                os.kill(pid, signal.SIGTERM)
            error, refused_at = prober.result(timeout=60)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert details(error).reason == "SHUTTING_DOWN"
            still_open = sum(not future.done() for future in [*unary, *rest])
            assert still_open > 0, "the load was over before the drain began"
            assert health_pb2_grpc.HealthStub(probes).Check(health_pb2.HealthCheckRequest(), timeout=20).status == NOT_SERVING
            assert server.http("/healthz")[0] == 503
        for future in unary:
            assert texts(future.result(timeout=60)) == beams
        for future in rest:
            *deltas, last = future.result(timeout=60)
            assert "".join(message.delta.text for message in deltas) == greedy[0]
            assert texts(last.result) == greedy
        assert watcher.finish() == [SERVING, NOT_SERVING]
        assert watcher.seen[-1][1] <= refused_at + CHANGED_S, "health did not change first"
        assert server.process.wait(30) == 0, server.tail()
        print(f"{still_open} of {2 * num_each} requests were open when the first new one was refused")
        with pytest.raises(grpc.RpcError) as raised:
            ask(probes, SENTENCES[0], timeout=5)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not [pid for pid in server.workers.values() if is_alive(pid)]
    assert "Traceback" not in server.log.read_text(), server.tail()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_admitted_is_answered(tmp_path: Path, workers: int) -> None:
    """With two workers the signal goes to all processes, as service managers do it."""
    with serve(tmp_path, "--workers", str(workers), "--slots", "96") as server:
        drain_under_load(server, 14, to_all=workers == 2)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_was_admitted_is_answered_at_length(tmp_path: Path) -> None:
    for number in range(15):
        with serve(tmp_path / str(number), "--workers", str(1 + number % 2), "--slots", "96") as server:
            drain_under_load(server, 10 + number % 7)


def test_client_that_leaves_during_a_drain_affects_no_other(tmp_path: Path) -> None:
    with serve(tmp_path, "--workers", "1", "--slots", "16") as server, server.channel() as channel:
        beams = texts(ask(channel, LONG_TEXT, WIDE))
        unary = [start_unary(channel, LONG_TEXT, WIDE) for _ in range(12)]
        leaver = start_stream(channel, LONG_TEXT)
        first = next(leaver)
        with stopped(*server.workers.values()):  # so that the drain is not over before they leave
            leaving = start_unary(channel, LONG_TEXT, WIDE)
            wait_for_arrival(channel)
            server.process.send_signal(signal.SIGTERM)
            eventually(lambda: server.http("/healthz")[0] == 503, "the drain")
            leaver.cancel()
            unary.pop(0).cancel()
            leaving.cancel()
        assert first.HasField("delta")
        for future in unary:
            assert texts(future.result(timeout=60)) == beams
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.log.read_text(), server.tail()


def test_drain_that_takes_too_long_is_cut(tmp_path: Path) -> None:
    with serve(tmp_path, "--workers", "1", "--slots", "8", "--drain-seconds", "0.2") as server, server.channel() as channel:
        unary = [start_unary(channel, LONG_TEXT, DecodeOptions(beam_size=8)) for _ in range(40)]
        eventually(lambda: server.scrape().total("attnserve_slots", state="used") >= 8, "a full batch")
        wait_for_arrival(channel)
        server.process.send_signal(signal.SIGTERM)
        errors = [error for future in unary if (error := future.exception(timeout=60)) is not None]
        assert errors
        assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
        assert {details(error).reason for error in errors} == {"SHUTTING_DOWN"}
        assert server.process.wait(30) == 0, server.tail()


def classify(channel: grpc.Channel, clip: bytes) -> Any:
    """Sends a clip; returns the future of its answer."""
    return ClassificationServiceStub(channel).ClassifyVideo.future(ClassifyVideoRequest(video=clip), timeout=120)


def three_clips_in_decoding(server: Server, channel: grpc.Channel, clip: bytes) -> tuple[list[Any], set[int]]:
    """Sends a clip three times; returns the calls and the two decoders once the server has all: two are decoded, one waits."""
    workers = set(server.children())
    calls = [classify(channel, clip) for _ in range(3)]
    eventually(lambda: len(set(server.children()) - workers) == 2, "two decoders")
    eventually(lambda: "\n3 requests are being prepared\n" in "".join(snapshot(server.process.pid)), "all three messages")
    return calls, set(server.children()) - workers


@needs_decoder
@pytest.mark.timeout(180)
def test_clips_that_came_before_the_signal_are_answered(tmp_path: Path) -> None:
    models, clip = repository(tmp_path, "nonlocal-fight"), slow_gif(NUM_FRAMES)
    flags = ("--workers", "1", "--models", str(models), "--drain-seconds", "90")
    with serve(tmp_path, *flags) as server, server.channel() as channel:
        calls, decoders = three_clips_in_decoding(server, channel, clip)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: server.http("/healthz")[0] == 503, "the drain")
        with pytest.raises(grpc.RpcError) as raised:
            classify(channel, clip).result(timeout=30)
        assert (raised.value.code(), details(raised.value).reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert [call.result(timeout=120).clip_frames for call in calls] == [NUM_FRAMES] * 3
        print(f"answered within {time.monotonic() - began:.1f} s after the signal")
        assert server.process.wait(30) == 0, server.tail()
    assert not [pid for pid in decoders if is_alive(pid)]
    assert "Traceback" not in server.log.read_text(), server.tail()


@needs_decoder
@pytest.mark.timeout(180)
def test_clips_that_are_not_decoded_within_the_drain_get_unavailable(tmp_path: Path) -> None:
    models, clip = repository(tmp_path, "nonlocal-fight"), slow_gif(2500)
    flags = ("--workers", "1", "--models", str(models), "--drain-seconds", "0.5")
    with serve(tmp_path, *flags) as server, server.channel() as channel:
        calls, decoders = three_clips_in_decoding(server, channel, clip)
        server.process.send_signal(signal.SIGTERM)
        errors = [call.exception(timeout=60) for call in calls]
        assert [error.code() for error in errors] == [grpc.StatusCode.UNAVAILABLE] * 3
        assert [details(error).reason for error in errors] == ["SHUTTING_DOWN"] * 3
        assert server.process.wait(30) == 0, server.tail()
    assert not [pid for pid in decoders if is_alive(pid)]
    assert not [text for text in ("Traceback", "ended with code") if text in server.log.read_text()], server.tail()
