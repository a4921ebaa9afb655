# SPDX-License-Identifier: Apache-2.0
"""``deploy/proxy/haproxy.cfg`` in Debian's HAProxy, before two real servers, for clients that neither balance nor retry."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from attnserve.v1.decoding_pb2 import DecodeOptions
from attnserve_client import AttnserveError, Client
from tests.deploy.haproxy import CONFIG, Proxy, program, proxy
from tests.deploy.prometheus import free_port
from tests.e2e.load import Load
from tests.e2e.serving import LONG_TEXT, OPTIONS, SENTENCES, Server, ask, eventually, serve, start_stream, start_unary, texts
from tests.fakes.dns import NameServer, name_server
from tests.stopping import stopped

HOSTS = ("127.0.0.1", "127.0.0.2")
SHORT = DecodeOptions(max_tokens=2)
SLOW = DecodeOptions(min_tokens=128, max_tokens=128, repetition_penalty=1.001)
SILENT_S = 3.0
AGE = "ATTNSERVE_GRPC_MAX_CONNECTION_AGE_SECONDS"


@contextlib.contextmanager
def server_at(folder: Path, host: str, ports: tuple[int, int]) -> Iterator[Server]:
    """Starts a server that closes connections at an age of about 1 s."""
    flags = ("--workers", "1", "--slots", "16", "--grpc-port", str(ports[0]), "--http-port", str(ports[1]))
    with serve(folder / host, *flags, host=host, environment={AGE: "1"}) as server:
        yield server


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, ports: tuple[int, int]) -> Iterator[list[Server]]:
    """Two servers, which a test may stop, but must leave as they were."""
    folder = tmp_path_factory.mktemp("servers")
    with server_at(folder, HOSTS[0], ports) as first, server_at(folder, HOSTS[1], ports) as second:
        yield [first, second]


@pytest.fixture
def names() -> Iterator[NameServer]:
    with name_server(*HOSTS) as started:
        yield started


@pytest.fixture
def balancer(tmp_path: Path, names: NameServer, ports: tuple[int, int], servers: list[Server]) -> Iterator[Proxy]:
    """A proxy that sends requests to both servers."""
    with proxy(tmp_path / "proxy", names.port, ports) as started:
        wait_for_up(started, servers)
        yield started


def wait_for_up(before: Proxy, servers: list[Server]) -> None:
    eventually(lambda: before.up() == {server.target for server in servers}, f"{len(servers)} servers are up", 15, 0.05)


def channel_to(target: str) -> grpc.Channel:
    """One connection, without retries."""
    return grpc.insecure_channel(target, options=OPTIONS)


def num_answered(server: Server) -> float:
    return server.scrape().total("attnserve_requests_total", model="transformer-en-de", code="OK")


@contextlib.contextmanager
def load_of(balancer: Proxy) -> Iterator[Load]:
    """Short requests over two connections, without retries."""
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(channel_to(balancer.target)) for _ in range(2)]
        yield stack.enter_context(Load(*(functools.partial(ask, channel, options=SHORT) for channel in channels)))


def test_configuration_has_no_warning(names: NameServer) -> None:
    variables = {**os.environ, "SERVERS": "attnserve.test", "NAMESERVER": f"127.0.0.1:{names.port}"}
    done = subprocess.run(
        [*program(), "-c", "-dW", "-f", str(CONFIG)], env=variables, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_requests_of_one_connection_go_to_all_servers(balancer: Proxy, servers: list[Server]) -> None:
    before = [num_answered(server) for server in servers]
    with channel_to(balancer.target) as channel:
        for text in SENTENCES[:40]:
            ask(channel, text, SHORT)
    assert [num_answered(server) - earlier for server, earlier in zip(servers, before, strict=True)] == [20, 20]
    assert 'haproxy_backend_http_responses_total{proxy="attnserve",code="2xx"} 40' in balancer.metrics()


def test_name_gets_and_loses_an_address(balancer: Proxy, servers: list[Server], names: NameServer) -> None:
    with load_of(balancer) as load:
        names.addresses.remove(HOSTS[1])
        wait_for_up(balancer, servers[:1])
        names.addresses.append(HOSTS[1])
        wait_for_up(balancer, servers)
        before = num_answered(servers[1])
        eventually(lambda: num_answered(servers[1]) > before, "a request at the server that joined")
    assert load.errors == []


@pytest.mark.parametrize(("timeout", "is_cut"), [("1h", False), ("1s", True)])
def test_stream_that_is_silent_is_not_cut(
    tmp_path: Path, names: NameServer, ports: tuple[int, int], servers: list[Server], timeout: str, is_cut: bool
) -> None:
    """Its server is stopped for a while, and counts as down; with another limit of silence the proxy cuts it."""
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.read_text(encoding="utf-8").replace("timeout server 1h", f"timeout server {timeout}"))
    names.addresses.remove(HOSTS[1])
    with proxy(tmp_path / "proxy", names.port, ports, config) as started, channel_to(started.target) as channel:
        wait_for_up(started, servers[:1])
        expected = texts(ask(channel, LONG_TEXT, SLOW))
        stream = start_stream(channel, LONG_TEXT, options=SLOW)
        next(stream)
        with stopped(servers[0].process.pid):
            wait_for_up(started, [])
            until = time.monotonic() + SILENT_S
            while stream.is_active() and time.monotonic() < until:
                time.sleep(0.05)
            assert stream.is_active() != is_cut
        if is_cut:
            with pytest.raises(grpc.RpcError):
                list(stream)
        else:
            assert texts(list(stream)[-1].result) == expected
        wait_for_up(started, servers[:1])


def test_no_request_fails_while_servers_are_drained_and_restarted(
    tmp_path: Path, balancer: Proxy, servers: list[Server], names: NameServer, ports: tuple[int, int]
) -> None:
    """A third server, so that the shared ones go on."""
    host = "127.0.0.3"
    with contextlib.ExitStack() as running, load_of(balancer) as load:
        third = running.enter_context(server_at(tmp_path, host, ports))
        names.addresses.append(host)
        wait_for_up(balancer, [*servers, third])
        eventually(lambda: num_answered(third) > 20, "requests at the new server")
        row = balancer.servers()[third.target]
        balancer.command(f"set server attnserve/{row['svname']} state drain")
        eventually(lambda: balancer.servers()[third.target]["scur"] == "0", "no request at the drained server")
        before = num_answered(third)
        load.wait_for(50)
        assert num_answered(third) == before
        third.process.send_signal(signal.SIGTERM)
        assert third.process.wait(30) == 0, third.tail()
        running.pop_all().close()
        third = running.enter_context(server_at(tmp_path, host, ports))
        balancer.command(f"set server attnserve/{row['svname']} state ready")
        wait_for_up(balancer, [*servers, third])
        eventually(lambda: num_answered(third) > 20, "requests at the successor")
        names.addresses.remove(host)
        wait_for_up(balancer, servers)
    assert load.errors == []
    assert load.num_answered > 100


@pytest.mark.long
def test_server_that_stops_without_a_word_fails_no_request_of_a_client_that_retries(
    tmp_path: Path, balancer: Proxy, servers: list[Server], names: NameServer, ports: tuple[int, int]
) -> None:
    """It refuses requests until the proxy has seen that it drains, and its drain takes as long as a running request."""
    host, errors = "127.0.0.3", list[AttnserveError]()
    with server_at(tmp_path, host, ports) as third, channel_to(third.target) as direct, Client(balancer.target) as client:
        names.addresses.append(host)
        wait_for_up(balancer, [*servers, third])
        running = [start_unary(direct, LONG_TEXT, SLOW) for _ in range(16)]
        eventually(lambda: third.scrape().total("attnserve_slots", state="used") >= 16, "a full batch")
        third.process.send_signal(signal.SIGTERM)
        while third.process.poll() is None:
            answers = client.translate_many(SENTENCES[:20], on_error="return", max_tokens=2)
            errors += [each for each in answers if isinstance(each, AttnserveError)]
        for future in running:
            assert future.result(60).hypotheses
    assert errors == []


@pytest.mark.long
def test_unary_requests_to_a_server_that_is_killed_are_answered_and_its_streams_end(
    tmp_path: Path, balancer: Proxy, servers: list[Server], names: NameServer, ports: tuple[int, int]
) -> None:
    """The proxy repeats a request of which no byte of the answer has come."""
    host = "127.0.0.3"
    with server_at(tmp_path, host, ports) as third, channel_to(balancer.target) as channel:
        names.addresses.append(host)
        wait_for_up(balancer, [*servers, third])
        expected = texts(ask(channel, LONG_TEXT, SLOW))
        streams = [start_stream(channel, LONG_TEXT, options=SLOW) for _ in range(6)]
        for stream in streams:
            next(stream)
        with stopped(*third.workers.values()):
            unary = [start_unary(channel, LONG_TEXT, SLOW) for _ in range(12)]
            eventually(lambda: sum(future.done() for future in unary) >= 6, "the other servers answer", 30, 0.02)
            assert not all(future.done() for future in unary)
            os.kill(third.process.pid, signal.SIGKILL)
        assert [texts(future.result(60)) for future in unary] == [expected] * 12
        codes = [code_of(lambda stream=stream: list(stream)) for stream in streams]
        assert set(codes) == {"CANCELLED", "OK"}


def code_of(call: Callable[[], object]) -> str:
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def test_proxy_that_is_told_to_stop_lets_requests_end(balancer: Proxy) -> None:
    with channel_to(balancer.target) as channel:
        expected = texts(ask(channel, LONG_TEXT, SLOW))
        stream = start_stream(channel, LONG_TEXT, options=SLOW)
        next(stream)
        balancer.process.send_signal(signal.SIGUSR1)
        assert texts(list(stream)[-1].result) == expected
        assert balancer.process.wait(20) == 0, balancer.tail()
