# SPDX-License-Identifier: Apache-2.0
"""Online: both sides as gRPC servers with one worker; requests at random times, or from clients in a closed loop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnserve_loadtest.bench.contestants import Engine
from attnserve_loadtest.bench.offline import Sentences
from attnserve_loadtest.bench.rounds import Ratio, interleave, ratio
from attnserve_loadtest.bench.servers import STREAM, UNARY, Load, closed_loop, open_loop, our_server, peer_server

OURS = "attnserve"
SHARE = 0.6
"""Load as a share of the peer's offline capacity."""
SHARES = (0.2, 0.4, 0.6, 0.8)
"""Loads of the plot."""
WINDOWS_MS = (0.0, 1.0, 2.0, 5.0)
CLIENTS = 64
SLOTS = 32


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Latency of a run, in milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, load: Load) -> Percentiles:
        """The percentiles of a run."""
        return cls(*(round(1e3 * load.percentile(share), 3) for share in (0.5, 0.95, 0.99)))


@dataclass(frozen=True, slots=True)
class OnlineResult:
    """The result at a share of the peer's offline capacity.

    Attributes:
        rate: requests per second.
        num_requests: to each side, all rounds together.
        window_ms: the peer's best window.
        p50: our latency over the peer's.
        p99: the same of the 99th percentile.
        ours: latency, the median over rounds.
        peer: the same of the peer.
        curve: by share of capacity: ours and the peer's, one run each.
    """

    rate: float
    num_requests: int
    window_ms: float
    p50: Ratio
    p99: Ratio
    ours: Percentiles
    peer: Percentiles
    curve: dict[float, tuple[Percentiles, Percentiles]]


@dataclass(frozen=True, slots=True)
class WireResult:
    """Throughput through gRPC against in-process, with as many slots, one worker.

    Attributes:
        unary: sentences a second through ``Translate``, over those in-process.
        streaming: the same through ``TranslateStream``.
        in_process: sentences a second, the median.
    """

    unary: Ratio
    streaming: Ratio
    in_process: float


def measure_online(
    folders: tuple[Path, Path], texts: Sequence[str], capacity: float, size: tuple[int, int], note: Callable[[], None]
) -> OnlineResult:
    """Measures latency at random arrivals.

    Args:
        folders: of the bundle (inside its repository), and of the converted model.
        texts: sent in turn.
        capacity: the peer's sentences per second, offline.
        size: number of rounds, and of requests to each side in all rounds together.
        note: called after every run.
    """
    folder, converted = folders
    (num_rounds, num_requests), rate = size, SHARE * capacity
    each = num_requests // num_rounds
    window = _best_window(folders, texts, rate, each // 2, note)
    with (
        our_server(folder.parents[1], "int8", "--slots", str(SLOTS)) as ours,
        peer_server(folder, converted, "int8", window, SLOTS) as peer,
    ):
        seeds = iter(range(1000))
        loads: dict[str, list[Load]] = {OURS: [], "peer": []}

        def run(name: str, address: str) -> float:
            loads[name].append(open_loop(address, texts, rate, each, next(seeds)))
            return 0.0

        interleave({OURS: lambda: run(OURS, ours), "peer": lambda: run("peer", peer)}, num_rounds, note)
        curve = {}
        for share in SHARES:
            pair = [open_loop(address, texts, share * capacity, each // 2, 7) for address in (ours, peer)]
            curve[share] = Percentiles.of(pair[0]), Percentiles.of(pair[1])
            note()
    found = {name: [Percentiles.of(load) for load in runs] for name, runs in loads.items()}
    p50, p99 = (
        ratio([getattr(one, name) for one in found[OURS]], [getattr(one, name) for one in found["peer"]]) for name in ("p50", "p99")
    )
    return OnlineResult(rate, each * num_rounds, window, p50, p99, _median(found[OURS]), _median(found["peer"]), curve)


def num_online_runs(num_rounds: int) -> int:
    """How often :func:`measure_online` calls ``note``."""
    return len(WINDOWS_MS) + 2 * num_rounds + len(SHARES)


def measure_wire(folder: Path, sentences: Sentences, num_rounds: int, note: Callable[[], None]) -> WireResult:
    """Measures the cost of the front and of gRPC: the same sentences through gRPC, from clients in a closed loop."""
    engine = Engine(folder, "int8", SLOTS, 1)
    with our_server(folder.parents[1], "int8", "--slots", str(SLOTS)) as address:

        def in_process() -> float:
            began = time.perf_counter()
            engine.translate(sentences.tokens)
            return time.perf_counter() - began

        seconds = interleave(
            {
                "in-process": in_process,
                "unary": lambda: closed_loop(address, sentences.texts, UNARY, CLIENTS).seconds,
                "streaming": lambda: closed_loop(address, sentences.texts, STREAM, CLIENTS).seconds,
            },
            num_rounds,
            note,
        )
    inside = seconds["in-process"]
    return WireResult(
        ratio(inside, seconds["unary"]), ratio(inside, seconds["streaming"]), len(sentences.texts) / statistics.median(inside)
    )


def _best_window(folders: tuple[Path, Path], texts: Sequence[str], rate: float, count: int, note: Callable[[], None]) -> float:
    """The peer's window with the least median latency at this rate."""
    found = {}
    for window in WINDOWS_MS:
        with peer_server(*folders, "int8", window, SLOTS) as address:
            found[window] = open_loop(address, texts, rate, count, 1).percentile(0.5)
        note()
    return min(found, key=lambda window: found[window])


def _median(found: Sequence[Percentiles]) -> Percentiles:
    return Percentiles(*(statistics.median(getattr(one, name) for one in found) for name in ("p50", "p95", "p99")))
