# SPDX-License-Identifier: Apache-2.0
"""The limits of answers that clients have not read, and the connections that they wait for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import grpc.aio
import pytest

from attnserve.v1 import translation_pb2
from attnserve_server.config_listen import GrpcConfig
from attnserve_server.errors import AnswersUnread
from attnserve_server.transport.rpc import connections
from attnserve_server.transport.rpc.unread import Unread
from tests.unit.server_shell.conftest import ShellFactory, until

PEER = "ipv4:127.0.0.1:1"


def test_answers_of_a_client_and_of_all_are_limited_and_the_sum_is_shown() -> None:
    unread = Unread(GrpcConfig(max_unread_bytes=100, max_client_unread_bytes=50))
    end = unread.begin("a", PEER, 30)
    assert unread.num_bytes == 30
    with pytest.raises(AnswersUnread, match=r"^30 bytes of answers wait for this client to read them; at most 50 may$"):
        unread.begin("a", PEER, 21)
    unread.begin("b", PEER, 50)
    with pytest.raises(AnswersUnread, match=r"^80 bytes of answers wait for clients to read them; at most 100 may$"):
        unread.begin("c", PEER, 21)
    assert unread.num_bytes == 80
    end()
    end()
    assert unread.num_bytes == 50
    unread.begin("a", PEER, 50)
    assert unread.num_bytes == 100


def test_answer_above_both_limits_is_sent_if_it_is_the_only_one() -> None:
    unread = Unread(GrpcConfig(max_unread_bytes=10, max_client_unread_bytes=10))
    end = unread.begin("a", PEER, 1000)
    with pytest.raises(AnswersUnread):
        unread.begin("b", PEER, 1)
    end()
    unread.begin("b", PEER, 1)


async def test_answers_that_were_read_or_given_up_are_counted_no_longer(make_shell: ShellFactory) -> None:
    shell = await make_shell()
    for text in ("a", ""):  # the second one is refused
        for call in (
            shell.translation.Translate(translation_pb2.TranslateRequest(text=text)),
            shell.translation.TranslateStream(translation_pb2.TranslateStreamRequest(text=text)).read(),
        ):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await call
    await until(lambda: len([each for each in shell.recorder.counted if each[0] == "done"]) == 4)
    await until(lambda: shell.recorder.num_unread_bytes() == 0)


@pytest.fixture(params=["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection: the server's and the client's."""
    host = request.param
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server(("::" if "ffff" in host else host, 0), family=family, dualstack_ipv6="ffff" in host)
    except OSError:
        pytest.skip("no IPv6")
    client = socket.socket(family)
    client.connect((host, listener.getsockname()[1]))
    server, _ = listener.accept()
    with listener, server, client:
        yield server, client


def names_of(client: socket.socket) -> list[str]:
    """What gRPC may call a client."""
    host, port = client.getsockname()[:2]
    if host.startswith("::ffff:"):
        return [f"ipv4:{host.removeprefix('::ffff:')}:{port}", f"ipv6:%5B{host.replace(':', '%3A')}%5D:{port}"]
    return [f"ipv6:%5B{host}%5D:{port}", f"ipv6:[{host}]:{port}"] if ":" in host else [f"ipv4:{host}:{port}"]


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="no TCP_INFO")
async def test_connection_is_found_by_the_name_of_its_client(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    for name in names_of(client):
        before = connections.bytes_taken([name, "ipv4:192.0.2.1:1", "unix:", "unknown"])
        assert list(before) == [name]
        server.sendall(b"x" * 5000)
        assert len(client.recv(5000, socket.MSG_WAITALL)) == 5000
        async with asyncio.timeout(10):
            while connections.bytes_taken([name])[name] != before[name] + 5000:
                await asyncio.sleep(0.01)
    connections.close(names_of(client)[:1])
    assert client.recv(1) == b""
