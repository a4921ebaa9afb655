# SPDX-License-Identifier: Apache-2.0
"""A target that names several servers: calls go to all that serve, and are repeated on another one where that is safe."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from attnserve_client import ServerUnreachable, TranslationDelta
from attnserve_client.channel import options_of
from tests.fakes.dns import NAME, name_server
from tests.fakes.server import FakeServer, wait_until


@pytest.fixture
def other() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.fixture
def client(make_client: Any, server: FakeServer, other: FakeServer) -> Any:
    """A client of both servers, which has connected to both."""
    made = make_client(f"ipv4:{server.address},{other.address}")

    def asked_both() -> bool:
        made.translate("x")
        return bool(server.translation.requests and other.translation.requests)

    wait_until(asked_both)
    for each in (server, other):
        each.translation.requests.clear()
    return made


def asked(*servers: FakeServer) -> list[int]:
    return [len(each.translation.requests) for each in servers]


def test_calls_go_to_all_servers_in_turn(client: Any, server: FakeServer, other: FakeServer) -> None:
    for _ in range(10):
        client.translate("x")
    assert list(client.translate_many(["x"] * 10, max_in_flight=4))
    assert asked(server, other) == [10, 10]


def test_server_that_does_not_serve_gets_no_call_until_it_serves(client: Any, server: FakeServer, other: FakeServer) -> None:
    server.set_serving(False)

    def is_left_out() -> bool:
        before = asked(server)
        for _ in range(4):
            client.translate("x")
        return asked(server) == before

    wait_until(is_left_out)
    server.set_serving(True)
    wait_until(lambda: not is_left_out())


def test_no_call_is_sent_while_no_server_serves(client: Any, server: FakeServer, other: FakeServer) -> None:
    for each in (server, other):
        each.set_serving(False)
    wait_until(lambda: not client.is_healthy())
    with pytest.raises(ServerUnreachable, match="ipv4:"):
        client.translate("x")
    assert asked(server, other) == [0, 0]


def test_unary_calls_to_a_server_that_dies_are_answered_by_the_other(client: Any, server: FakeServer, other: FakeServer) -> None:
    held, release = threading.Event(), threading.Event()

    def hold(request: Any, context: Any) -> None:
        held.set()
        release.wait(10)

    server.translation.before = hold

    def die() -> None:
        held.wait(10)
        server.stop()
        release.set()

    thread = threading.Thread(target=die)
    thread.start()
    assert [answer.text for answer in client.translate_many(["a b"] * 8)] == ["B A"] * 8
    thread.join()
    assert asked(server, other)[1] == 8


def test_stream_that_has_begun_is_not_repeated(client: Any, server: FakeServer, other: FakeServer) -> None:
    gate = threading.Event()
    for each in (server, other):
        each.translation.stream_gate = gate
    stream = iter(client.translate_stream("a b"))
    assert isinstance(next(stream), TranslationDelta)
    (begun,) = (each for each in (server, other) if each.translation.requests)
    begun.stop()
    gate.set()
    with pytest.raises(ServerUnreachable):
        list(stream)
    assert sum(asked(server, other)) == 1


def test_a_name_is_looked_up(make_client: Any, server: FakeServer) -> None:
    with name_server("127.0.0.1") as names:
        assert make_client(names.target(server.port)).translate("a b").text == "B A"
        assert names.num_queries
        names.addresses.clear()
        with pytest.raises(ServerUnreachable, match=NAME):
            make_client(names.target(server.port), retries=0).translate("a b")


def test_one_server_is_asked_whatever_its_health_says(make_client: Any, server: FakeServer) -> None:
    """A server whose other model is broken says NOT_SERVING, and still answers."""
    server.set_serving(False)
    assert make_client().translate("a b").text == "B A"


@pytest.mark.parametrize("address", ["127.0.0.1:8001", "unix:/path", "xds:///name"])
def test_targets_of_one_server_do_not_balance(address: str) -> None:
    assert "grpc.service_config" not in dict(options_of(address))
