# SPDX-License-Identifier: Apache-2.0
"""Open streams on which nothing happens: the memory of each, and that they do not delay the calls of an active client.

They are frames of HTTP/2, written by hand: 10,000 calls of a client library would load the machine that is measured.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from attnserve.v1 import translation_pb2, translation_pb2_grpc
from tests.e2e.serving import SENTENCES, Server, default_model_alone, eventually, serve

pytestmark = pytest.mark.load

FLAGS = ("--workers", "1", "--log-level", "warning")
NUM_CONNECTIONS = 100
BLOCK, NUM_BLOCKS, ATTEMPTS = 25, 24, 3
"""Calls of a block, blocks to each server, and measurements of which one must pass: other processes disturb some."""
MAX_BYTES = 40_000
"""Of a stream, with the front's tasks and gRPC's state; measured: 24 to 27 KB."""
MAX_SLOWDOWN = 1.5
Blocks = list[list[float]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS, ACK = 1, 4, 1
TRANSLATE = "/attnserve.v1.TranslationService/TranslateStream"
WATCH = "/grpc.health.v1.Health/Watch"
EMPTY_MESSAGE = bytes(5)
"""The length of a gRPC message, 0, and no compression."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def header_block(path: str) -> bytes:
    """Header fields as literals with new names (RFC 7541, section 6.2.2)."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "a", "te": "trailers"}
    fields["content-type"] = "application/grpc"
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields.items()
    )


class Idle:
    """Open streams over up to ``NUM_CONNECTIONS`` connections."""

    def __init__(self, port: int, path: str, count: int) -> None:
        self.connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(min(count, NUM_CONNECTIONS))]
        self.streams = [
            (self.connections[number % NUM_CONNECTIONS], 1 + 2 * (number // NUM_CONNECTIONS)) for number in range(count)
        ]
        for connection in self.connections:
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0))
        block = header_block(path)
        for connection, stream in self.streams:
            connection.sendall(frame(HEADERS, END_HEADERS, stream, block))

    def send(self, payload: bytes) -> None:
        """Sends the last data of every stream."""
        for connection, stream in self.streams:
            connection.sendall(frame(DATA, END_STREAM, stream, payload))

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


def resident(server: Server) -> int:
    """Bytes of memory of the front."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def settle(server: Server) -> None:
    """Waits until the front has nothing to do."""
    process, spent = psutil.Process(server.process.pid), -1.0

    def is_idle() -> bool:
        nonlocal spent
        before, spent = spent, sum(process.cpu_times()[:2])
        return spent - before < 0.02

    eventually(is_idle, "the front is idle", 60, 0.3)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return default_model_alone(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Server]:
    """A server without idle streams."""
    with serve(tmp_path_factory.mktemp("alone"), *FLAGS, "--models", str(models)) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path, models: Path) -> Iterator[Server]:
    """A new one for each test: the memory of streams that have ended stays with the process, for further ones."""
    with serve(tmp_path, *FLAGS, "--models", str(models)) as running:
        yield running


def latencies(servers: list[Server], num_blocks: int = NUM_BLOCKS) -> list[Blocks]:
    """Durations of calls to each server, one at a time; blocks take turns, so that other processes disturb all alike."""
    found: list[Blocks] = [[] for _ in servers]
    with contextlib.ExitStack() as stack:
        stubs = [translation_pb2_grpc.TranslationServiceStub(stack.enter_context(server.channel())) for server in servers]
        for number in range(num_blocks + 1):
            for stub, blocks in zip(stubs, found, strict=True):
                durations = []
                for text in SENTENCES[:BLOCK]:
                    began = time.perf_counter()
                    stub.Translate(translation_pb2.TranslateRequest(text=text), timeout=30)
                    durations.append(time.perf_counter() - began)
                if number:  # the first block warms up
                    blocks.append(durations)
    return found


def slowdown(idle: Blocks, alone: Blocks) -> float:
    """The 99th percentile beside idle streams over that without."""
    first, second = (sorted(itertools.chain(*each)) for each in (idle, alone))
    first, second = (each[int(0.99 * len(each))] for each in (first, second))
    print(f"p99 {first * 1e3:.2f} ms, {second * 1e3:.2f} ms without idle streams")
    return first / second


@pytest.mark.parametrize("path", [TRANSLATE, WATCH], ids=["before their message", "watching"])
@pytest.mark.parametrize("count", [1, 100, 10_000])
@pytest.mark.timeout(300)
def test_idle_streams_take_little_memory_and_delay_no_call(server: Server, alone: Server, path: str, count: int) -> None:
    latencies([server], 1)
    settle(server)
    before = resident(server)
    idle = Idle(server.grpc_port, path, count)
    try:
        if path == WATCH:
            idle.send(EMPTY_MESSAGE)
        settle(server)
        num_bytes = (resident(server) - before) / count
        print(f"{count} streams over {len(idle.connections)} connections: {num_bytes:,.0f} bytes each")
        assert count < 10_000 or 1_000 < num_bytes < MAX_BYTES
        assert any(slowdown(*latencies([server, alone])) <= MAX_SLOWDOWN for _ in range(ATTEMPTS))
        if path == TRANSLATE:  # all were open until now
            idle.send(b"")
            eventually(
                lambda: server.scrape().total("attnserve_requests_total", code="INVALID_ARGUMENT") == count,
                "end",
                90,
                0.5,
            )
        else:
            assert num_watched(idle) == count
    finally:
        idle.close()
    server.assert_unharmed()


def num_watched(idle: Idle) -> int:
    """Streams on which the first state of health has come."""

    def of(connection: socket.socket) -> int:
        received = b""
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while part := connection.recv(1 << 20):
                received += part
        kinds, begin = [], 0
        while begin + 9 <= len(received):
            kinds.append(received[begin + 3])
            begin += 9 + int.from_bytes(received[begin : begin + 3], "big")
        return kinds.count(DATA)

    return sum(map(of, idle.connections))


def test_delay_of_every_fiftieth_call_is_seen() -> None:
    assert slowdown([[0.010] * 49 + [0.016]] * 12, [[0.010] * 50] * 12) > MAX_SLOWDOWN
    assert slowdown([[0.010] * 50] * 12, [[0.010] * 49 + [0.016]] * 12) < 1.0
