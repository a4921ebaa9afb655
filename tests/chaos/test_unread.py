# SPDX-License-Identifier: Apache-2.0
"""Outputs that are not read: the server's log, and answers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from attnserve.v1 import translation_pb2
from attnserve.v1.decoding_pb2 import ATTENTION_DETAIL_ALL, DecodeOptions
from tests.e2e.serving import OPTIONS, SENTENCES, STREAM, Server, ask, eventually, serve

ONE = ("--workers", "1")
MIB = 1 << 20
LARGE = {
    "text": "red , " * 42,
    "options": DecodeOptions(beam_size=8, num_hypotheses=8, return_attention=ATTENTION_DETAIL_ALL),
}
"""127 source pieces; the answer has 8 MB."""
UNREAD = [*OPTIONS, ("grpc.max_receive_message_length", -1), ("grpc.http2.bdp_probe", 0)]
"""Without the probe, the client core's windows stay at 64 KiB, so nothing is read before the caller reads."""
PATHS = {
    "unary": ("Translate", translation_pb2.TranslateRequest),
    STREAM: ("TranslateStream", translation_pb2.TranslateStreamRequest),
}
STALL_S = 2.0


def start(channel: grpc.Channel, kind: str, timeout: float = 100.0) -> Any:
    """A call whose answer is large; nothing is read until the caller reads."""
    method, request = PATHS[kind]
    call = channel.unary_stream(f"/attnserve.v1.TranslationService/{method}")
    return call(request(**LARGE).SerializeToString(), timeout=timeout)


def code_of(call: Any) -> str:
    """The status of a call, read to its end."""
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def resident(server: Server) -> float:
    """MiB of memory that the front has."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def unread(server: Server) -> float:
    return server.scrape().total("attnserve_unread_answers_bytes") / MIB


def refused(server: Server) -> float:
    return server.scrape().total("attnserve_requests_total", code="RESOURCE_EXHAUSTED")


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that lets a client leave two large answers unread, and connections stall for two seconds."""
    environment = {"ATTNSERVE_GRPC_MAX_CLIENT_UNREAD_BYTES": str(17 * MIB), "ATTNSERVE_GRPC_STALL_SECONDS": str(STALL_S)}
    with serve(tmp_path_factory.mktemp("server"), *ONE, environment=environment) as running:
        yield running


def test_server_whose_log_is_not_read_answers(tmp_path: Path) -> None:
    """Some tens of lines fill the pipe."""
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        with serve(tmp_path, *ONE, output=writing) as server, server.channel() as channel:
            for _ in range(100):
                assert ask(channel, SENTENCES[0], timeout=60).hypotheses
            assert server.http("/healthz")[0] == 200
            assert server.scrape().total("attnserve_log_lines_dropped_total") == 0, "4 MiB of lines may wait"
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.load
@pytest.mark.parametrize(
    ("kind", "num_calls", "limit_mib", "peak_mib"),
    [
        (STREAM, 6, 9, 250),
        pytest.param(STREAM, 40, 64, 700, marks=pytest.mark.long),
        pytest.param("unary", 40, 64, 700, marks=pytest.mark.long),
    ],
)
def test_answers_that_are_not_read_are_bounded(tmp_path: Path, kind: str, num_calls: int, limit_mib: int, peak_mib: int) -> None:
    """All calls on one connection; those above the limit are refused, and their memory is returned."""
    limit = {"ATTNSERVE_GRPC_MAX_CLIENT_UNREAD_BYTES": str(limit_mib * MIB)}
    with serve(tmp_path, *ONE, environment=limit) as server, grpc.insecure_channel(server.target, options=UNREAD) as channel:
        calls = [start(channel, kind) for _ in range(num_calls)]
        num_kept = limit_mib // 8
        peak, wanted = 0.0, num_calls - num_kept
        while refused(server) < wanted:
            peak = max(peak, resident(server))
            time.sleep(0.05)
        assert refused(server) == wanted
        assert limit_mib - 8 < unread(server) <= limit_mib
        assert max(peak, resident(server)) < peak_mib
        for call in calls:
            call.cancel()
        eventually(lambda: unread(server) == 0 and resident(server) < 150, "the memory is returned", pause=0.1)
        server.assert_unharmed()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name: str, value: str) -> bytes:
    """One header field, literal and not indexed (RFC 7541, section 6.2.2)."""
    return b"".join([b"\x00", bytes([len(name)]), name.encode(), bytes([len(value)]), value.encode()])


def streams_without_a_window(server: Server, num_streams: int) -> socket.socket:
    """Asks for streams of which not even the first part can be sent: the window of each is 0."""
    method, request = PATHS[STREAM]
    path = f"/attnserve.v1.TranslationService/{method}"
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "x",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    headers = b"".join(header(name, value) for name, value in fields.items())
    data = request(**LARGE).SerializeToString()
    message = b"\x00" + struct.pack(">I", len(data)) + data
    calls = [frame(1, 4, number, headers) + frame(0, 1, number, message) for number in range(1, 2 * num_streams, 2)]
    connection = socket.create_connection(("127.0.0.1", server.grpc_port))
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, struct.pack(">HI", 4, 0)) + b"".join(calls))
    return connection


@pytest.mark.load
@pytest.mark.long
def test_answers_are_bounded_also_where_the_parts_before_them_are_not_read(tmp_path: Path) -> None:
    limit = {"ATTNSERVE_GRPC_MAX_CLIENT_UNREAD_BYTES": str(9 * MIB)}
    with serve(tmp_path, *ONE, environment=limit) as server, streams_without_a_window(server, 8):
        eventually(lambda: server.scrape().total("attnserve_slots", state="used") > 0, "they are decoded", 20, 0.05)
        eventually(lambda: server.scrape().total("attnserve_slots", state="used") == 0, "they are answered", 60, 0.1)
        assert 7 < unread(server) <= 9
        assert resident(server) < 130


@pytest.mark.load
@pytest.mark.parametrize("kind", list(PATHS))
def test_connection_that_takes_nothing_while_an_answer_waits_is_closed(hasty: Server, kind: str) -> None:
    with grpc.insecure_channel(hasty.target, options=UNREAD) as channel:
        call = start(channel, kind)
        eventually(lambda: unread(hasty) > 7, "the answer waits", 20, 0.05)
        seconds = eventually(lambda: unread(hasty) == 0, "the call ends", 10 * STALL_S, 0.05)
        assert seconds > STALL_S / 2
        assert code_of(call) == "UNAVAILABLE"
    eventually(lambda: f"took nothing for {STALL_S:.0f} s" in hasty.tail(), "the line in the log, which a thread writes")


class Slow:
    """A proxy that passes a connection's answers at a few MB/s, from a small buffer."""

    def __init__(self, server: Server, bytes_per_s: float) -> None:
        self._port, self._bytes_per_s = server.grpc_port, bytes_per_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        server.connect(("127.0.0.1", self._port))
        threading.Thread(target=self._pass, args=(client, server, 1e12), daemon=True).start()
        self._pass(server, client, self._bytes_per_s)

    @staticmethod
    def _pass(source: socket.socket, to: socket.socket, bytes_per_s: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                to.sendall(data)
                time.sleep(len(data) / bytes_per_s)


@pytest.mark.load
@pytest.mark.parametrize("kind", ["unary", pytest.param(STREAM, marks=pytest.mark.long)])
def test_slow_reader_that_makes_progress_is_answered(hasty: Server, kind: str) -> None:
    """Its answer takes several times as long as a connection may stall."""
    with grpc.insecure_channel(Slow(hasty, 1.3e6).target, options=UNREAD) as channel:
        call = start(channel, kind)
        eventually(lambda: unread(hasty) > 7, "the answer is sent", 20, 0.05)
        codes = Counter[str]()
        reading = threading.Thread(target=lambda: codes.update([code_of(call)]))
        reading.start()
        assert eventually(lambda: unread(hasty) == 0, "the answer is taken", 30, 0.05) > 1.5 * STALL_S
        reading.join(20)
        assert codes == {"OK": 1}
