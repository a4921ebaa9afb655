# SPDX-License-Identifier: Apache-2.0
"""Online: both sides as gRPC servers, with requests at random times; and the cost of the way through gRPC."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnserve_loadtest.bench.contestants import Engine
from attnserve_loadtest.bench.offline import Sentences
from attnserve_loadtest.bench.processor import front_seconds, processor_seconds
from attnserve_loadtest.bench.rounds import Ratio, interleave, quotients, ratio, scatter, spread, steadiest
from attnserve_loadtest.bench.servers import (
    STREAM,
    UNARY,
    Load,
    address_of,
    closed_loop,
    open_loop,
    our_server,
    peer_server,
    server_process,
)

LIMIT_MS = 50.0
"""The highest rate is that at which the 99th percentile of the latency is at most this."""
NUM_PROBES = 8
"""Rates that a search tries."""
START_RATE, STEP, CLOSE = 300.0, 2.0, 1.05
"""The first rate of a search, the factor between rates while one bound is missing, and the ratio of bounds that ends it."""
PROBE_S, LEAST_REQUESTS = 4.0, 200
MAX_SEARCHES = 3
"""Searches of each side; further rounds would add little and take minutes."""
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Loads of the plot, as shares of the peer's highest rate."""
WINDOWS_MS = (0.0, 1.0, 2.0, 5.0)
CLIENTS = 64
SLOTS = 32
WORKERS = 2
"""Worker processes, and replicas of the peer, at random arrivals."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Latency of a run, in milliseconds, and the processor time of the client for a request, in microseconds."""

    p50: float
    p95: float
    p99: float
    client_us: float

    @classmethod
    def of(cls, load: Load) -> Percentiles:
        """The percentiles of a run."""
        p50, p95, p99 = (round(1e3 * load.percentile(share), 3) for share in (0.5, 0.95, 0.99))
        return cls(p50, p95, p99, round(1e6 * load.client_seconds / len(load.latencies), 1))


@dataclass(frozen=True, slots=True)
class Highest:
    """The result of a search: a rate in requests per second, and the latency at it; 0 and None if no rate was low enough."""

    rate: float
    latency: Percentiles | None


@dataclass(frozen=True, slots=True)
class OnlineResult:
    """The highest rates at which the 99th percentile is at most ``LIMIT_MS``.

    Attributes:
        ratio: our rate over the peer's.
        ours: the search with the median rate.
        peer: the same of the peer.
        window_ms: the peer's best window.
        rates: of all searches, by side.
        curve: by requests per second: ours and the peer's latency, one run each.
    """

    ratio: Ratio
    ours: Highest
    peer: Highest
    window_ms: float
    rates: dict[str, list[float]]
    curve: dict[float, tuple[Percentiles, Percentiles]]


@dataclass(frozen=True, slots=True)
class Passage:
    """The cost of a sentence, in microseconds of processor time of each process, and the duration of a run in seconds."""

    seconds: float
    front_us: float
    worker_us: float
    client_us: float


@dataclass(frozen=True, slots=True)
class WireResult:
    """Throughput through gRPC against in-process, with as many slots, one worker, and ``CLIENTS`` requests in flight.

    Attributes:
        unary: sentences a second through ``Translate``, over those in-process.
        streaming: the same through ``TranslateStream``.
        in_process: sentences a second, the median.
        front_unary: processor time of the front for a call of ``Translate``, in microseconds.
        front_streaming: the same of ``TranslateStream``.
        passages: the median of each figure, by "in-process", "unary" and "streaming".
        num_attempts: measurements; the one with the least scatter is given.
    """

    unary: Ratio
    streaming: Ratio
    in_process: float
    front_unary: Ratio
    front_streaming: Ratio
    passages: dict[str, Passage]
    num_attempts: int


def highest_rate(probe: Callable[[float], Percentiles], start: float = START_RATE) -> Highest:
    """Searches the highest rate at which the 99th percentile is at most ``LIMIT_MS``.

    It tries at most ``NUM_PROBES`` rates. A rate that fails is tried once more, because other processes can only add latency.

    Args:
        probe: runs at a rate.
        start: the first rate.
    """
    low, high, rate = Highest(0.0, None), math.inf, start
    for _ in range(NUM_PROBES):
        latency = probe(rate)
        if latency.p99 > LIMIT_MS:
            latency = min(latency, probe(rate), key=lambda each: each.p99)
        if latency.p99 <= LIMIT_MS:
            low = Highest(rate, latency)
        else:
            high = rate
        if low.rate and high / low.rate <= CLOSE:
            break
        rate = low.rate * STEP if math.isinf(high) else math.sqrt(low.rate * high) if low.rate else high / STEP
    return low


def measure_online(
    folders: tuple[Path, Path], texts: Sequence[str], size: tuple[int, int], note: Callable[[], None]
) -> OnlineResult:
    """Measures both sides at random arrivals, each with two workers on the machine's cores.

    Args:
        folders: of the bundle (inside its repository), and of the converted model.
        texts: sent in turn.
        size: number of rounds, and most requests to each side in all rounds together.
        note: called after every run or search.
    """
    num_searches = min(size[0], MAX_SEARCHES)
    most, seeds = size[1] // (num_searches * NUM_PROBES), iter(range(1_000_000))

    def run(address: str, rate: float) -> Percentiles:
        count = max(LEAST_REQUESTS, min(most, int(rate * PROBE_S)))
        return Percentiles.of(open_loop(address, texts, rate, count, next(seeds)))

    window = _best_window(folders, run, note)
    flags = "--slots", str(SLOTS), "--workers", str(WORKERS)
    with our_server(folders[0].parents[1], "int8", *flags) as ours, peer_server(folders, window, SLOTS, WORKERS) as peer:
        last = {ours: START_RATE, peer: START_RATE}

        def search(address: str) -> Highest:
            found = highest_rate(lambda rate: run(address, rate), last[address])
            last[address] = found.rate or START_RATE
            return found

        found = interleave({"ours": lambda: search(ours), "peer": lambda: search(peer)}, num_searches, note)
        rates = {side: [each.rate for each in searches] for side, searches in found.items()}
        curve = {}
        for share in SHARES:
            rate = share * statistics.median(rates["peer"])
            if rate:
                curve[round(rate, 1)] = run(ours, rate), run(peer, rate)
            note()
    middle = {side: sorted(searches, key=lambda each: each.rate)[len(searches) // 2] for side, searches in found.items()}
    whole = [max(each, 1e-9) for each in rates["peer"]]  # a peer without any rate is infinitely slower
    return OnlineResult(ratio(rates["ours"], whole), middle["ours"], middle["peer"], window, rates, curve)


def num_online_runs(num_rounds: int) -> int:
    """How often :func:`measure_online` calls ``note``."""
    return len(WINDOWS_MS) + 2 * min(num_rounds, MAX_SEARCHES) + len(SHARES)


def measure_wire(folder: Path, sentences: Sentences, num_rounds: int, note: Callable[[], None]) -> WireResult:
    """Measures the cost of the front and of gRPC: the same sentences in-process, and through gRPC from clients in a closed loop."""
    engine, count = Engine(folder, "int8", SLOTS, 1), len(sentences.texts)
    with server_process(folder.parents[1], "int8", "--workers", "1", "--slots", str(SLOTS)) as server:
        address = address_of(server)

        def in_process() -> Passage:
            began, spent = time.perf_counter(), time.process_time()
            engine.translate(sentences.tokens)
            return Passage(time.perf_counter() - began, 0.0, 1e6 * (time.process_time() - spent) / count, 0.0)

        def through(method: str) -> Passage:
            front, every = front_seconds(server.pid), processor_seconds(server.pid)
            load = closed_loop(address, sentences.texts, method, CLIENTS)
            front, every = front_seconds(server.pid) - front, processor_seconds(server.pid) - every
            times = (1e6 * each / count for each in (front, every - front, load.client_seconds))
            return Passage(load.seconds, *times)

        runs: dict[str, Callable[[], Passage]] = {
            "in-process": in_process,
            "unary": lambda: through(UNARY),
            "streaming": lambda: through(STREAM),
        }
        for run in runs.values():
            run()
        found, num_attempts = steadiest(lambda: interleave(runs, num_rounds, note), _most_scattered)
    inside = found["in-process"]
    unary, streaming = (spread(_speeds(found, name)) for name in ("unary", "streaming"))
    front_unary, front_streaming = (spread([each.front_us for each in found[name]]) for name in ("unary", "streaming"))
    per_second = count / statistics.median(each.seconds for each in inside)
    passages = {name: _median(values) for name, values in found.items()}
    return WireResult(unary, streaming, per_second, front_unary, front_streaming, passages, num_attempts)


def _speeds(found: Mapping[str, Sequence[Passage]], name: str) -> list[float]:
    """The speed through gRPC over that in-process, of each round."""
    return quotients([each.seconds for each in found["in-process"]], [each.seconds for each in found[name]])


def _most_scattered(found: Mapping[str, Sequence[Passage]]) -> list[float]:
    return max((_speeds(found, name) for name in ("unary", "streaming")), key=scatter)


def _median(values: Sequence[Passage]) -> Passage:
    names = ("seconds", "front_us", "worker_us", "client_us")
    return Passage(*(statistics.median(getattr(each, name) for each in values) for name in names))


def _best_window(folders: tuple[Path, Path], run: Callable[[str, float], Percentiles], note: Callable[[], None]) -> float:
    """The peer's window with the lowest 99th percentile at ``START_RATE``."""
    found = {}
    for window in WINDOWS_MS:
        with peer_server(folders, window, SLOTS, WORKERS) as address:
            run(address, START_RATE)
            found[window] = run(address, START_RATE).p99
        note()
    return min(found, key=lambda window: found[window])
