# SPDX-License-Identifier: Apache-2.0
"""A host name with several addresses: gRPC and HTTP listen on all of them, or on none."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from attnserve.v1 import model_pb2, model_pb2_grpc
from attnserve_server.config_listen import GrpcConfig
from attnserve_server.errors import StartupError
from attnserve_server.metrics.exposition import Exposition
from attnserve_server.transport.http.server import HttpServer
from attnserve_server.transport.listen import addresses_of
from attnserve_server.transport.rpc.health import HealthBoard
from attnserve_server.transport.rpc.server import GrpcServer
from tests.unit.server_shell.conftest import Shell, ShellFactory

NAME = "two-families.test"
FAMILIES = ((socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0)))


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6")


def http(host: str, port: int) -> HttpServer:
    return HttpServer(host, port, Exposition(CollectorRegistry()), lambda: (True, "ok"))


@pytest.fixture(autouse=True)
def _name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name resolves to both families, as ``localhost`` does on most machines."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, port: Any, *rest: Any, **named: Any) -> list[Any]:
        if host == NAME:
            return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for family, address in FAMILIES]
        return resolve(host, port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 that another process listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        yield other.getsockname()[1]


@needs_ipv6
async def test_both_servers_listen_on_all_addresses_of_a_name(make_shell: ShellFactory, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    shell = await make_shell(host=NAME)
    for address in (f"127.0.0.1:{shell.port}", f"[::1]:{shell.port}"):
        async with grpc.aio.insecure_channel(address) as channel:
            assert await model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest(), timeout=10)
    server = http(NAME, 0)
    port = await server.start()
    for family, address in FAMILIES:
        with socket.socket(family) as probe:
            probe.connect((address[0], port))
    await server.stop()
    assert f"gRPC listens on [::1]:{shell.port}, 127.0.0.1:{shell.port}" in caplog.text
    assert f"HTTP listens on [::1]:{port}, 127.0.0.1:{port}" in caplog.text


@needs_ipv6
async def test_one_address_that_is_taken_ends_the_start(shell: Shell, taken: int) -> None:
    with pytest.raises(StartupError, match=rf"HTTP cannot listen on 127\.0\.0\.1:{taken}: Address already in use"):
        await http(NAME, taken).start()
    with closing(socket.socket(socket.AF_INET6)) as probe:
        assert probe.connect_ex(("::1", taken)) != 0, "the other address is not bound either"
    second = GrpcServer(shell.plane, HealthBoard(), GrpcConfig(host=NAME, port=taken))
    with pytest.raises(StartupError, match=rf"gRPC cannot listen on 127\.0\.0\.1:{taken}; "):
        await second.start()


async def test_addresses_that_the_machine_does_not_have_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have an IPv6 address on a machine without IPv6."""
    foreign = (socket.AF_INET, ("192.0.2.1", 0))
    monkeypatch.setitem(globals(), "FAMILIES", (foreign, FAMILIES[1]))
    assert [address.host for address in await addresses_of(NAME, 1, "HTTP")] == ["127.0.0.1"]
    monkeypatch.setitem(globals(), "FAMILIES", (foreign,))
    with pytest.raises(StartupError, match=rf"^HTTP cannot listen on {NAME}:1: Cannot assign requested address$"):
        await addresses_of(NAME, 1, "HTTP")
