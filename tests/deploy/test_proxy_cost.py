# SPDX-License-Identifier: Apache-2.0
"""What a request costs directly, over a name that the client balances, and through HAProxy; ``-s`` shows the table."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attnserve_client import Client
from tests.deploy.haproxy import Proxy, proxy
from tests.e2e.serving import SENTENCES, Server, eventually, serve
from tests.fakes.dns import name_server

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
NUM_ALONE, NUM_TOGETHER, IN_FLIGHT, ROUNDS = 100, 500, 16, 15
MAX_PROXY_MS = 0.5


def cpu_s(pid: int) -> float:
    """Processor time of a process: the sum over its threads, which do not end meanwhile."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


@contextlib.contextmanager
def counted(pids: dict[str, int], into: dict[str, float], number: int) -> Iterator[None]:
    """Notes the processor time of processes, in milliseconds a request."""
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    yield
    into.update({name: (cpu_s(pid) - before[name]) * 1000 / number for name, pid in pids.items()})


def measure(address: str, pids: dict[str, int]) -> dict[str, float]:
    """Requests of one piece each: their median time one by one in milliseconds, and processor times of many together."""
    found: dict[str, float] = {}
    texts = [SENTENCES[number % len(SENTENCES)] for number in range(NUM_TOGETHER)]
    with Client(address) as client:
        list(client.translate_many(texts[:100], max_in_flight=IN_FLIGHT, max_tokens=1))
        times = []
        for text in texts[:NUM_ALONE]:
            began = time.perf_counter()
            client.translate(text, max_tokens=1)
            times.append(time.perf_counter() - began)
        with counted(pids, found, NUM_TOGETHER):
            assert len(list(client.translate_many(texts, max_in_flight=IN_FLIGHT, max_tokens=1))) == NUM_TOGETHER
    return {"median alone": statistics.median(times) * 1000, **found}


def test_proxy_costs_little(tmp_path: Path) -> None:
    with (
        serve(tmp_path / "server", "--workers", "1") as server,
        name_server("127.0.0.1") as names,
        proxy(tmp_path / "proxy", names.port, (server.grpc_port, server.http_port)) as balancer,
    ):
        eventually(lambda: bool(balancer.up()), "the server is up", 15, 0.05)
        shown = least(ways(server, balancer, names.target(server.grpc_port)))
        for name, row in shown.items():
            print(f"{name}, ms: " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()))
        assert 0 < shown["through HAProxy"]["proxy"] < MAX_PROXY_MS


def ways(server: Server, balancer: Proxy, name: str) -> dict[str, Callable[[], dict[str, float]]]:
    """By name: a measurement of one way to the server."""
    (worker,) = server.workers.values()
    pids = {"client": os.getpid(), "front": server.process.pid, "worker": worker, "proxy": balancer.process.pid}
    addresses = {"directly": server.target, "over a name": name, "through HAProxy": balancer.target}
    return {way: lambda address=address: measure(address, pids) for way, address in addresses.items()}


def least(measurements: dict[str, Callable[[], dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The least of several interleaved rounds, by measurement and figure: what other work on the machine adds is left out."""
    rounds = [{way: call() for way, call in measurements.items()} for _ in range(ROUNDS)]
    return {way: {key: min(each[way][key] for each in rounds) for key in rounds[0][way]} for way in measurements}
