# SPDX-License-Identifier: Apache-2.0
"""Several servers behind one name: one joins, one is killed, all are restarted in turn, while a client asks the name."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from attnserve_client import Client, ServerUnreachable, Translation
from tests.e2e.load import Load
from tests.e2e.serving import LONG_TEXT, Server, eventually, serve
from tests.fakes.dns import NameServer, name_server
from tests.other_work import bars
from tests.stopping import stopped

pytestmark = pytest.mark.load
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
AGE, AGE_S = "ATTNSERVE_GRPC_MAX_CONNECTION_AGE_SECONDS", 1.0
"""Age at which the servers close a connection."""
JOIN_S = 2.0
SHORT = {"max_tokens": 2}
SLOW = {"min_tokens": 128, "max_tokens": 128, "repetition_penalty": 1.001}


@contextlib.contextmanager
def server_at(folder: Path, host: str, port: int = 0) -> Iterator[Server]:
    """Starts a server at an address of the loopback."""
    flags, environment = ("--workers", "1", "--slots", "16", "--grpc-port", str(port)), {AGE: str(AGE_S)}
    with serve(folder / host, *flags, environment=environment, host=host) as server:
        yield server


@contextlib.contextmanager
def servers_at(folder: Path, hosts: Sequence[str]) -> Iterator[list[Server]]:
    """Starts servers at several addresses and the same port."""
    with contextlib.ExitStack() as stack:
        started: list[Server] = []
        for host in hosts:
            port = started[0].grpc_port if started else 0
            started.append(stack.enter_context(server_at(folder, host, port)))
        yield started


@contextlib.contextmanager
def client_of(names: NameServer, port: int) -> Iterator[Client]:
    with Client(names.target(port), timeout=30) as client:
        yield client


def load_of(client: Client) -> Load:
    """Short unary requests of four threads over one client."""
    return Load(*[lambda text: client.translate(text, **SHORT)] * 4)


def num_answered(server: Server, **labels: str) -> float:
    return server.scrape().total("attnserve_requests_total", model="transformer-en-de", **labels)


def shares(servers: Sequence[Server], load: Load, number: int) -> list[float]:
    """The part of each server in the next answers of a load."""
    before = [num_answered(server) for server in servers]
    load.wait_for(number)
    counts = [num_answered(server) - earlier for server, earlier in zip(servers, before, strict=True)]
    return [count / sum(counts) for count in counts]


@pytest.mark.quiet
def test_server_that_joins_has_its_share_soon(tmp_path: Path) -> None:
    with servers_at(tmp_path, HOSTS) as servers, name_server(*HOSTS[:2]) as names:
        port, third = servers[0].grpc_port, servers[2]
        with client_of(names, port) as client, load_of(client) as load:
            load.wait_for(100)
            assert shares(servers, load, 100)[2] == 0
            names.addresses.append(HOSTS[2])
            added = time.monotonic()
            first_after = eventually(lambda: num_answered(third) > 0, "a request at the new server", pause=0.02)
            time.sleep(max(0.0, added + JOIN_S - time.monotonic()))
            found = shares(servers, load, 300)
        print(f"first request {first_after:.2f} s after its address, then shares {', '.join(f'{each:.3f}' for each in found)}")
        assert load.errors == []
        with bars():
            assert first_after < JOIN_S
            assert min(found) > 0.28


def test_unary_requests_to_a_server_that_is_killed_are_answered_and_its_streams_end(tmp_path: Path) -> None:
    num_streams = 6
    with (
        servers_at(tmp_path, HOSTS[:2]) as servers,
        name_server(*HOSTS[:2]) as names,
        ThreadPoolExecutor(num_streams + 1) as threads,
    ):
        with client_of(names, servers[0].grpc_port) as client:
            with load_of(client) as load:
                eventually(lambda: all(num_answered(server) for server in servers), "requests at both", pause=0.02)
            expected = client.translate(LONG_TEXT, **SLOW).text
            streams = [client.translate_stream(LONG_TEXT, **SLOW) for _ in range(num_streams)]
            for stream in streams:
                next(stream)
            with stopped(*servers[1].workers.values()):
                before = num_answered(servers[0], method="Translate")
                unary = threads.submit(lambda: list(client.translate_many([LONG_TEXT] * 16, on_error="return", **SLOW)))
                rest = [threads.submit(list, stream) for stream in streams]
                eventually(
                    lambda: num_answered(servers[0], method="Translate") >= before + 7, "the other half is answered", 30, 0.02
                )
                os.kill(servers[1].process.pid, signal.SIGKILL)
            outcomes = [future.exception(60) or future.result() for future in rest]
            answers = unary.result(60)
            with load_of(client) as load:
                load.wait_for(100)
        assert [type(answer) for answer in answers] == [Translation] * 16
        assert {answer.text for answer in answers if isinstance(answer, Translation)} == {expected}
        lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        print(f"{len(lost)} of {num_streams} streams lost")
        assert {(type(error), getattr(error, "code", "")) for error in lost} == {(ServerUnreachable, "UNAVAILABLE")}
        assert 0 < len(lost) < num_streams
        assert {outcome[-1].text for outcome in outcomes if isinstance(outcome, list)} == {expected}
        assert load.errors == []


def test_no_unary_request_fails_while_all_servers_are_restarted_in_turn(tmp_path: Path) -> None:
    """The name keeps all addresses, so that the client itself must leave out the server that is down."""
    with contextlib.ExitStack() as stack, name_server(*HOSTS) as names:
        port, running = 0, dict[str, tuple[contextlib.ExitStack, Server]]()

        def start(host: str) -> Server:
            own = stack.enter_context(contextlib.ExitStack())
            server = own.enter_context(server_at(tmp_path, host, port))
            running[host] = own, server
            return server

        for host in HOSTS:
            port = start(host).grpc_port
        with client_of(names, port) as client, load_of(client) as load:
            load.wait_for(200)
            for host in HOSTS:
                own, server = running[host]
                server.process.send_signal(signal.SIGTERM)
                assert server.process.wait(30) == 0, server.tail()
                own.close()
                load.wait_for(50)
                successor = start(host)
                eventually(lambda: num_answered(successor) > 0, "requests at its successor", pause=0.02)  # noqa: B023 - called at once
        print(f"{load.num_answered} requests, {len(load.errors)} failed")
        assert load.errors == []
