# SPDX-License-Identifier: Apache-2.0
"""A target that names several servers: calls go to all that serve, and are repeated on another one where that is safe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool

from attnserve.v1 import translation_pb2, translation_pb2_grpc
from attnserve_client import ModelNotReady, ServerUnreachable, TranslationDelta, methods
from attnserve_client.channel import SERVICE_CONFIG, options_of
from tests.fakes.dns import NAME, name_server
from tests.fakes.server import UNAVAILABLE, FakeServer, wait_until

OTHER_CLIENTS = Path(__file__).resolve().parents[3] / "clients/service_config.json"
"""For clients that have only gRPC."""


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

    def is_refused() -> bool:
        try:
            client.translate("x")
        except ServerUnreachable:
            return True
        return False

    wait_until(is_refused)  # until then the client may not have been told of both
    before = asked(server, other)
    with pytest.raises(ServerUnreachable, match="ipv4:"):
        client.translate("x")
    assert asked(server, other) == before


def test_unary_calls_that_one_server_refuses_are_answered_by_the_other(client: Any, server: FakeServer, other: FakeServer) -> None:
    server.translation.failures.extend([UNAVAILABLE] * 100)
    assert [client.translate("a b").text for _ in range(8)] == ["B A"] * 8
    assert asked(other) == [8]
    assert asked(server)[0] >= 4


def test_stream_that_has_begun_is_not_repeated(client: Any, server: FakeServer, other: FakeServer) -> None:
    for each in (server, other):
        each.translation.stream_failure = UNAVAILABLE
    stream = iter(client.translate_stream("a b"))
    assert isinstance(next(stream), TranslationDelta)
    with pytest.raises(ModelNotReady):
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


def test_configuration_for_other_clients_balances_as_this_one_and_retries_all_unary_methods() -> None:
    config = json.loads(OTHER_CLIENTS.read_text(encoding="utf-8"))
    assert {key: config[key] for key in SERVICE_CONFIG} == SERVICE_CONFIG
    retried = set()
    for name in config["methodConfig"][0]["name"]:
        service = descriptor_pool.Default().FindServiceByName(name["service"])
        retried |= {method.full_name for method in service.methods if name.get("method", method.name) == method.name}
    known = [each for each in vars(methods).values() if isinstance(each, methods.Method) and each is not methods.HEALTH_CHECK]
    paths = {each.path.removeprefix("/").replace("/", "."): each for each in known}
    assert retried == {name for name in paths if not name.endswith("Stream")}


def test_configuration_for_other_clients_repeats_unary_calls_and_no_stream(server: FakeServer, other: FakeServer) -> None:
    target, options = f"ipv4:{server.address},{other.address}", [("grpc.service_config", OTHER_CLIENTS.read_text(encoding="utf-8"))]
    with grpc.insecure_channel(target, options) as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)

        def translated() -> str:
            return str(stub.Translate(translation_pb2.TranslateRequest(text="a b"), timeout=30).hypotheses[0].text)

        wait_until(lambda: translated() == "B A" and min(asked(server, other)) > 0)  # connected to both
        for each in (server, other):
            each.translation.requests.clear()
            each.translation.failures.append(UNAVAILABLE)
        assert [translated() for _ in range(4)] == ["B A"] * 4
        assert min(asked(server, other)) > 1
        for each in (server, other):
            each.translation.failures.append(UNAVAILABLE)
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            list(stub.TranslateStream(translation_pb2.TranslateStreamRequest(text="a b"), timeout=10))
