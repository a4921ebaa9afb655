# SPDX-License-Identifier: Apache-2.0
"""Processor time of the front that traces take, over 20,000 RPCs of real servers that take turns."""

from __future__ import annotations

import statistics
from itertools import cycle, islice
from pathlib import Path

import pytest

from attnserve_client import Client
from tests.e2e.serving import SENTENCES, Server, serve
from tests.fakes.otlp import OtlpServer

pytestmark = pytest.mark.load
NUM, ROUNDS = 20_000, 50
PER_ROUND = NUM // ROUNDS
BARS_US = {"0.01": 10.0, "1": 130.0}
"""Microseconds per request, by the share of requests that are sampled."""


def front_ns(server: Server) -> int:
    """Processor time of all threads of the front, in nanoseconds."""
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def us_per_request(server: Server, client: Client) -> float:
    """Processor time of the front for each request of a round, in microseconds."""
    before = front_ns(server)
    answers = client.translate_many(islice(cycle(SENTENCES), PER_ROUND), max_tokens=1, max_in_flight=16)
    assert sum(1 for _ in answers) == PER_ROUND
    return (front_ns(server) - before) / PER_ROUND / 1e3


@pytest.mark.timeout(300)
def test_traces_cost_little_of_each_rpc(tmp_path: Path) -> None:
    """Each server is compared with the one that has no traces in the same round, and the median of all rounds counts."""
    with OtlpServer() as receiver:
        flags = {ratio: ("--trace-endpoint", receiver.address, "--trace-ratio", ratio) for ratio in BARS_US} | {"off": ()}
        with (
            serve(tmp_path / "off", "--workers", "1") as off,
            serve(tmp_path / "some", "--workers", "1", *flags["0.01"]) as some,
            serve(tmp_path / "all", "--workers", "1", *flags["1"]) as every,
            Client(off.target) as to_off,
            Client(some.target) as to_some,
            Client(every.target) as to_every,
        ):
            servers = {"off": (off, to_off), "0.01": (some, to_some), "1": (every, to_every)}
            for server, client in servers.values():
                us_per_request(server, client)
            order = list(servers)
            rounds = list[dict[str, float]]()
            for _ in range(ROUNDS):
                rounds.append({name: us_per_request(*servers[name]) for name in order})
                order.append(order.pop(0))
            dropped = [server.scrape().total("attnserve_spans_dropped_total") for server in (some, every)]
    added = {name: [each[name] - each["off"] for each in rounds] for name in BARS_US}
    print(f"off: {statistics.median(each['off'] for each in rounds):.0f} us of the front for each request")
    for name, differences in added.items():
        error_us = statistics.stdev(differences) / ROUNDS**0.5
        print(f"ratio {name}: {statistics.median(differences):+.1f} us (standard error of the mean {error_us:.1f})")
    assert len(receiver.spans) > NUM
    assert dropped == [0, 0]
    assert all(statistics.median(added[name]) <= bar for name, bar in BARS_US.items())
