# SPDX-License-Identifier: Apache-2.0
"""Processor time of the front that traces take, over 20,000 RPCs of real servers that take turns."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path

import pytest

from attnserve_client import Client
from tests.e2e.serving import SENTENCES, Server, serve
from tests.fakes.otlp import OtlpServer, Receiver

pytestmark = [pytest.mark.load, pytest.mark.long]
NUM, NUM_STARTS, NUM_ROUNDS = 20_000, 5, 10
PER_ROUND = NUM // NUM_STARTS // NUM_ROUNDS
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


def medians_of_a_start(folder: Path, receiver: Receiver) -> dict[str, float]:
    """Starts a server without traces and two with them, which take turns; returns the median of each, and of what traces add."""
    with ExitStack() as stack:
        servers = dict[str, tuple[Server, Client]]()
        for ratio in ("off", *BARS_US):
            flags = () if ratio == "off" else ("--trace-endpoint", receiver.address, "--trace-ratio", ratio)
            server = stack.enter_context(serve(folder / ratio, "--workers", "1", *flags))
            servers[ratio] = server, stack.enter_context(Client(server.target))
            us_per_request(*servers[ratio])
        order, rounds = list(servers), list[dict[str, float]]()
        for _ in range(NUM_ROUNDS):
            rounds.append({ratio: us_per_request(*servers[ratio]) for ratio in order})
            order.append(order.pop(0))
        assert sum(server.scrape().total("attnserve_spans_dropped_total") for server, _ in servers.values()) == 0
    added = {ratio: statistics.median(each[ratio] - each["off"] for each in rounds) for ratio in BARS_US}
    return {"off": statistics.median(each["off"] for each in rounds)} | added


@pytest.mark.timeout(400)
def test_traces_cost_little_of_each_rpc(tmp_path: Path) -> None:
    """Two equal processes differ by some microseconds a request, so that the mean of several starts counts, with its error."""
    with OtlpServer() as receiver:
        starts = [medians_of_a_start(tmp_path / str(number), receiver) for number in range(NUM_STARTS)]
    assert len(receiver.spans) > NUM
    print(f"off: {statistics.mean(each['off'] for each in starts):.0f} us of the front for each request")
    for ratio, bar in BARS_US.items():
        values = [each[ratio] for each in starts]
        mean, error = statistics.mean(values), statistics.stdev(values) / NUM_STARTS**0.5
        print(f"ratio {ratio}: {mean:+.1f} us, standard error {error:.1f}")
        assert mean - 2 * error <= bar
