# SPDX-License-Identifier: Apache-2.0
"""A worker killed by SIGKILL: the front continues, a new worker is ready soon, and only partly sent streams are lost."""

from __future__ import annotations

import http.client
import os
import resource
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attnserve.v1.decoding_pb2 import DecodeOptions
from tests.e2e.serving import (
    LONG_TEXT,
    SENTENCES,
    Samples,
    Server,
    ask,
    details,
    eventually,
    is_alive,
    serve,
    start_stream,
    start_unary,
    texts,
)
from tests.other_work import bars

READY_S = 5.0
WIDE = DecodeOptions(beam_size=4, num_hypotheses=4)
SLOW = DecodeOptions(min_tokens=128, max_tokens=128, repetition_penalty=1.001)
"""Makes steps slow, so that a stream is not over before a worker is killed on a fast machine: each row applies a rule at each step."""
SAMPLE = SENTENCES[:16]


@pytest.fixture
def num_workers() -> int:
    """Two, unless a test says otherwise."""
    return 2


@pytest.fixture
def server(num_workers: int, tmp_path: Path) -> Iterator[Server]:
    with serve(tmp_path, "--workers", str(num_workers), "--slots", "16") as running:
        yield running


def kill(pid: int) -> float:
    """Kills a worker; returns when."""
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def wait_until_ready(server: Server, num_loads: float) -> None:
    """Waits until all workers are warm again: one more load than before, health SERVING."""
    with server.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        count = "attnserve_model_load_duration_seconds_count"
        eventually(lambda: server.scrape().total(count) > num_loads, "a warm successor", 30, 0.02)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=20).status == health_pb2.HealthCheckResponse.SERVING
        assert server.http("/healthz")[0] == 200


def kill_under_load(server: Server, num_each: int = 10) -> tuple[float, int, int]:
    """Kills one worker under load; returns seconds until all are ready again, streams that were lost, and streams answered."""
    with server.channel() as channel, ThreadPoolExecutor(num_each) as threads:
        before = [texts(ask(channel, text, WIDE)) for text in SAMPLE]
        greedy, slow, beams = (texts(ask(channel, LONG_TEXT, options)) for options in (None, SLOW, WIDE))
        loads = server.scrape().total("attnserve_model_load_duration_seconds_count")
        workers = server.children()
        streams = [start_stream(channel, LONG_TEXT, options=SLOW) for _ in range(num_each)]
        firsts = [next(stream) for stream in streams]
        unary = [start_unary(channel, LONG_TEXT, WIDE) for _ in range(num_each)]
        rest: list[Future] = [threads.submit(list, stream) for stream in streams]
        killed_at = kill(workers[0])
        lost = answered = 0
        for first, future in zip(firsts, rest, strict=True):
            assert first.WhichOneof("event") == "delta"
            error = future.exception(timeout=60)
            if error is None:
                assert texts(future.result()[-1].result) == slow
                answered += 1
            else:
                assert isinstance(error, grpc.RpcError)
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error
                assert details(error).reason == "WORKER_LOST"
                lost += 1
        wait_until_ready(server, loads)
        ready_s = time.monotonic() - killed_at
        for future in unary:
            assert texts(future.result(timeout=60)) == beams
        assert server.process.poll() is None, server.tail()
        assert len(server.children()) == len(workers)
        assert workers[0] not in server.children()
        assert [texts(ask(channel, text, WIDE)) for text in SAMPLE] == before
        assert texts(ask(channel, LONG_TEXT)) == greedy
        eventually(lambda: server.scrape().total("attnserve_slots", state="used") == 0, "all slots free")
        assert server.scrape().total("attnserve_queue_length") == 0
    print(f"{len(workers)} worker(s): ready again after {ready_s:.2f} s; streams lost {lost}, answered {answered}")
    assert lost >= 1, "the killed worker had no stream"
    if len(workers) == 1:
        assert answered == 0
    return ready_s, lost, answered


@pytest.mark.load
@pytest.mark.quiet
@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_worker(server: Server) -> None:
    ready_s, _, _ = kill_under_load(server)
    with bars():
        assert ready_s < READY_S
    with server.channel() as channel:  # later requests can use all of its slots
        futures = [start_unary(channel, LONG_TEXT) for _ in range(40)]
        assert len({tuple(texts(future.result(timeout=60))) for future in futures}) == 1
    assert "Traceback" not in server.log.read_text(), server.tail()


@pytest.mark.parametrize("num_workers", [1])
def test_idle_worker_killed(server: Server) -> None:
    with server.channel() as channel:
        before = [texts(ask(channel, text)) for text in SAMPLE]
        loads = server.scrape().total("attnserve_model_load_duration_seconds_count")
        kill(server.children()[-1])
        assert [texts(ask(channel, text)) for text in SAMPLE] == before, "what comes meanwhile waits"
        wait_until_ready(server, loads)
        assert [texts(ask(channel, text)) for text in SAMPLE] == before


def num_sockets(pid: int) -> int:
    """Sockets that a process holds, beside standard input and outputs."""
    links = [link for link in Path(f"/proc/{pid}/fd").iterdir() if int(link.name) > 2]
    return sum(str(link.readlink()).startswith("socket:") for link in links)


class LiveWorkers:
    """Reads the number of live workers over one connection, also while the server accepts no other."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection(server.host, server.http_port, timeout=30)

    def count(self) -> float:
        self._connection.request("GET", "/metrics")
        return Samples(self._connection.getresponse().read().decode()).total("attnserve_workers", state="live")


def test_worker_is_started_again_after_the_system_has_refused_one(server: Server) -> None:
    """Without descriptors for a while, as with too many idle connections."""
    loads = server.scrape().total("attnserve_model_load_duration_seconds_count")
    live = LiveWorkers(server)
    assert live.count() == 2
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    kill(server.children()[0])
    eventually(lambda: server.log.read_text().count("could not be started: OSError: [Errno 24]") >= 2, "two refusals", 30)
    assert live.count() == 1, "before the limit is lifted: another starts soon"
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
    wait_until_ready(server, loads)
    assert [num_sockets(pid) for pid in server.children()] == [1, 1], "none of gRPC's and HTTP's is inherited"
    assert (
        server.scrape().total("attnserve_workers", state="live")
        == server.scrape().total("attnserve_workers", state="expected")
        == 2
    )


@pytest.mark.load
@pytest.mark.parametrize("num_workers", [1])
def test_stopped_worker_is_replaced_and_its_requests_are_answered(tmp_path: Path, num_workers: int) -> None:
    config = tmp_path / "attnserve.toml"
    config.write_text("[engine]\nhang_seconds = 2.0\n", encoding="utf-8")
    flags = ("--workers", str(num_workers), "--slots", "16", "--config", str(config))
    with serve(tmp_path, *flags) as server, server.channel() as channel:
        beams = texts(ask(channel, LONG_TEXT, WIDE))
        (stopped,) = server.children()
        os.kill(stopped, signal.SIGSTOP)
        time.sleep(3.0)
        assert server.children() == [stopped], "an idle one is left alone"
        assert server.scrape().total("attnserve_worker_last_message_age_seconds") > 2.9
        unary = [start_unary(channel, LONG_TEXT, WIDE) for _ in range(8)]
        assert [texts(future.result(timeout=60)) for future in unary] == [beams] * 8
        assert stopped not in server.children()
        assert "hangs: it has work and has sent nothing for 2 s" in server.log.read_text()


def test_workers_do_not_outlive_the_front(server: Server) -> None:
    workers = server.children()
    assert set(workers) == set(server.workers.values())
    with server.channel() as channel:
        futures = [start_unary(channel, LONG_TEXT) for _ in range(8)]
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(10)
        errors = [future.exception(timeout=20) for future in futures]
    assert {error.code() for error in errors if error is not None} <= {grpc.StatusCode.UNAVAILABLE}
    seconds = eventually(lambda: not any(is_alive(pid) for pid in workers), "no orphans")
    print(f"workers gone after {seconds * 1e3:.0f} ms")


@pytest.mark.load
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.quiet
@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_workers_at_length(server: Server) -> None:
    for _ in range(10):
        time.sleep(11)  # a worker that lived for 10 s is started again at once
        ready_s, _, _ = kill_under_load(server)
        with bars():
            assert ready_s < READY_S
