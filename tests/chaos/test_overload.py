# SPDX-License-Identifier: Apache-2.0
"""Five times the server's capacity: throughput and latency stay the same, the rest is refused at once, and memory does not grow.

Every bound compares numbers of one run on one server, whose capacity is measured before and after. Load comes from a process of its
own (``generator.py``). Other load on the machine can only make the numbers worse, so a run with faults is repeated once; a fault of
the server would occur in both runs. The full test takes an idle machine and some minutes (``long``); a short run with bounds that
hold on any machine is always made.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from attnserve.v1 import decoding_pb2, translation_pb2
from tests.chaos.generator import Load, Sent, generate
from tests.e2e.serving import SENTENCES, Samples, Server, eventually, serve

SLOTS, QUEUE_LIMIT = 16, 8
FLAGS = ("--workers", "1", "--slots", str(SLOTS), "--log-level", "warning")
OVERLOAD = 5.0
RAMP_S = 1.0
"""The beginning of a phase, which is left out."""

REFUSAL = "attnserve_refusal_duration_seconds"
MIB = 1 << 20
REQUESTS = [
    translation_pb2.TranslateRequest(text=f"{first} {second}", options=decoding_pb2.DecodeOptions(beam_size=8))
    .SerializeToString()
    .hex()
    for first, second in zip(SENTENCES[:20], SENTENCES[20:40], strict=True)
]


@dataclass(frozen=True)
class Phase:
    """The clients' measurements of one load; times in seconds, of answers only."""

    offered: float
    """Requests a second."""
    goodput: float
    """Answers a second."""
    p50_s: float
    p99_s: float
    num_refused: int
    num_failed: int
    """Requests that ended neither with an answer nor with RESOURCE_EXHAUSTED."""
    max_open: int
    """Maximum number of requests in flight."""

    @staticmethod
    def of(sent: list[Sent], seconds: float) -> Phase:
        kept = [each for each in sent if each.due_s >= RAMP_S]
        answers = sorted(each.seconds for each in kept if each.code == "OK")
        assert answers, "no answers"
        counted = sum(each.code == "OK" and RAMP_S <= each.ended_s < seconds for each in sent)
        changes = sorted([(each.due_s, 1) for each in sent] + [(each.ended_s, -1) for each in sent])
        num_open = max_open = 0
        for _, change in changes:
            num_open += change
            max_open = max(max_open, num_open)
        return Phase(
            offered=len(kept) / (seconds - RAMP_S),
            goodput=counted / (seconds - RAMP_S),
            p50_s=answers[len(answers) // 2],
            p99_s=answers[min(len(answers) - 1, int(0.99 * len(answers)))],
            num_refused=sum(each.code == "RESOURCE_EXHAUSTED" for each in sent),
            num_failed=sum(each.code not in ("OK", "RESOURCE_EXHAUSTED") for each in sent),
            max_open=max_open,
        )


@dataclass(frozen=True)
class Growth:
    """Measurements of the server during the overload."""

    rss_mib: dict[str, float]
    """Growth of the resident memory of each process, from the first quarter to the end."""
    max_waiting: float
    """Maximum number of waiting requests, in the front and in workers."""


@dataclass(frozen=True)
class Run:
    """All numbers of one run."""

    capacity_before: float
    capacity_after: float
    normal: Phase
    """At 80 % of the capacity."""
    overload: Phase
    quick_refusals: float
    """Share of the refusals that took at most 50 ms, on the server."""
    num_refusals: float
    """Refusals counted by the server."""
    growth: Growth
    light_before_s: float
    """Median time of requests one after the other."""
    light_after_s: float
    leftovers: dict[str, float] = field(default_factory=dict)
    """Gauges that are not zero afterwards."""

    @property
    def capacity(self) -> float:
        """Answers per second in a closed loop; the lower of two, because other load may slow the machine meanwhile."""
        return min(self.capacity_before, self.capacity_after)


def broken(rules: dict[str, bool]) -> list[str]:
    return [text for text, holds in rules.items() if not holds]


def faults(run: Run) -> list[str]:
    """Everything that an overloaded server must not do."""
    return unbounded(run) + slower(run)


def slower(run: Run) -> list[str]:
    """Bounds on the speed of an overloaded server."""
    overload, normal = run.overload, run.normal
    rules = {
        f"only {overload.offered / run.capacity:.1f} times the capacity was offered": overload.offered
        >= 0.9 * OVERLOAD * run.capacity,
        f"goodput {overload.goodput:.1f}/s of {run.capacity:.1f}/s": overload.goodput >= 0.9 * run.capacity,
        f"p99 {overload.p99_s:.3f} s, {normal.p99_s:.3f} s at 80 % load": overload.p99_s <= 2 * normal.p99_s,
        f"only {run.quick_refusals:.2%} of the refusals within 50 ms": run.quick_refusals >= 0.99,
        f"capacity {run.capacity_before:.1f}/s became {run.capacity_after:.1f}/s": run.capacity_after >= 0.7 * run.capacity_before,
        f"light load took {run.light_before_s:.3f} s, and {run.light_after_s:.3f} s afterwards": (
            run.light_after_s <= 1.5 * run.light_before_s
        ),
    }
    return broken(rules)


def unbounded(run: Run) -> list[str]:
    """Bounds that an overloaded server must keep on any machine."""
    overload, normal, grown = run.overload, run.normal, run.growth
    rules = {
        f"{overload.num_failed} and {normal.num_failed} requests failed": overload.num_failed == normal.num_failed == 0,
        f"{overload.num_refused} refusals": overload.num_refused > 0,
        f"{run.num_refusals:.0f} refusals were timed, {overload.num_refused} seen": run.num_refusals >= overload.num_refused,
        f"{overload.max_open} requests were open at once": overload.max_open <= 8 * (SLOTS + QUEUE_LIMIT),
        f"{grown.max_waiting:.0f} requests waited": grown.max_waiting <= QUEUE_LIMIT + SLOTS,
        f"memory grew: {grown.rss_mib} MiB": all(mib <= 8 for mib in grown.rss_mib.values()),
        f"left over: {run.leftovers}": not run.leftovers,
    }
    return broken(rules)


@dataclass
class Watch:
    """Samples that a thread takes of a server."""

    rss: list[dict[str, float]] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)

    def growth(self) -> Growth:
        early = self.rss[len(self.rss) // 4]
        grown = {name: round(self.rss[-1][name] - early[name], 1) for name in early}
        return Growth(grown, max(self.waiting))


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / MIB


@contextmanager
def watching(server: Server) -> Iterator[Watch]:
    watch, stop = Watch(), threading.Event()
    pids = {"front": server.process.pid, **server.workers}

    def run() -> None:
        while not stop.wait(0.5):
            watch.rss.append({name: resident_mib(pid) for name, pid in pids.items()})
            watch.waiting.append(server.scrape().total("attnserve_queue_length"))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join(30)


def capacity(server: Server, seconds: float) -> float:
    sent = generate(Load(server.target, seconds + RAMP_S, REQUESTS, num_clients=SLOTS // 8 + QUEUE_LIMIT // 2))
    return Phase.of(sent, seconds + RAMP_S).goodput


def light(server: Server) -> float:
    sent = generate(Load(server.target, RAMP_S + 2.0, REQUESTS, num_clients=1))
    return Phase.of(sent, RAMP_S + 2.0).p50_s


def open_loop(server: Server, rate: float, seconds: float) -> Phase:
    return Phase.of(generate(Load(server.target, seconds, REQUESTS, rate=rate, timeout_s=100)), seconds)


def leftovers(samples: Samples) -> dict[str, float]:
    gauges = {
        "queue_length": samples.total("attnserve_queue_length"),
        "slots_used": samples.total("attnserve_slots", state="used"),
    }
    return {name: value for name, value in gauges.items() if value}


def measure(server: Server, seconds: float) -> Run:
    light(server)
    before_s, capacity_before = light(server), capacity(server, 4.0)
    normal = open_loop(server, 0.8 * capacity_before, seconds)
    scraped = server.scrape()
    with watching(server) as watch:
        overload = open_loop(server, OVERLOAD * capacity_before, seconds)
    after = server.scrape()

    def grown(name: str, **labels: str) -> float:
        return after.total(name, **labels) - scraped.total(name, **labels)

    refused = grown(f"{REFUSAL}_count", reason="overloaded")
    eventually(lambda: not leftovers(server.scrape()), "all gauges at zero", 30)
    return Run(
        capacity_before,
        capacity(server, 4.0),
        normal,
        overload,
        grown(f"{REFUSAL}_bucket", reason="overloaded", le="0.05") / max(refused, 1),
        refused,
        watch.growth(),
        before_s,
        light(server),
        leftovers(server.scrape()),
    )


def check_overload(folder: Path, seconds: float, rules: Callable[[Run], list[str]] = faults) -> None:
    found: list[str] = []
    for attempt in range(2):
        with serve(folder / str(attempt), *FLAGS, "--queue-limit", str(QUEUE_LIMIT)) as server:
            run = measure(server, seconds)
            server.assert_unharmed()
        assert "Traceback" not in server.log.read_text(), server.tail()
        print(json.dumps(dataclasses.asdict(run)))
        found = rules(run)
        if not found:
            return
        print(f"run {attempt}: {found}")
    raise AssertionError(found)


GOOD = Run(
    capacity_before=4.5,
    capacity_after=4.5,
    normal=Phase(3.95, 3.79, 0.637, 1.913, num_refused=1, num_failed=0, max_open=10),
    overload=Phase(22.42, 5.37, 1.604, 2.186, num_refused=335, num_failed=0, max_open=16),
    quick_refusals=0.997,
    num_refusals=335,
    growth=Growth({"front": 3.9, "worker-0.0": 0.0}, max_waiting=7),
    light_before_s=0.315,
    light_after_s=0.357,
)
"""Recorded on two cores with four times as much other load."""

UNBOUNDED = Run(
    capacity_before=3.0,
    capacity_after=4.0,
    normal=Phase(2.58, 2.53, 0.808, 3.008, num_refused=0, num_failed=0, max_open=10),
    overload=Phase(15.11, 3.32, 37.136, 67.012, num_refused=0, num_failed=0, max_open=240),
    quick_refusals=0.0,
    num_refusals=0,
    growth=Growth({"front": -1.3, "worker-0.0": 0.0}, max_waiting=238),
    light_before_s=0.358,
    light_after_s=0.308,
)
"""Recorded with ``--queue-limit 100000``."""


def test_recorded_run_has_no_faults() -> None:
    assert faults(GOOD) == []


def test_unbounded_queue_is_seen() -> None:
    found = faults(UNBOUNDED)
    assert len(found) == 5
    for what in ("p99 67.012 s", "238 requests waited", "240 requests were open", "0 refusals"):
        assert [text for text in found if text.startswith(what)]


def _overload(**changes: float) -> Run:
    return dataclasses.replace(GOOD, overload=dataclasses.replace(GOOD.overload, **changes))


@pytest.mark.parametrize(
    "bad",
    [
        _overload(offered=15.0),
        _overload(goodput=4.0),
        _overload(p99_s=3.9),
        _overload(num_failed=1),
        _overload(max_open=1000),
        dataclasses.replace(GOOD, quick_refusals=0.98),
        dataclasses.replace(GOOD, num_refusals=100),
        dataclasses.replace(GOOD, growth=Growth({"front": 20.0}, 7)),
        dataclasses.replace(GOOD, growth=Growth({"worker-0.0": 9.0}, 7)),
        dataclasses.replace(GOOD, growth=Growth({}, 100)),
        dataclasses.replace(GOOD, capacity_after=2.0),
        dataclasses.replace(GOOD, light_after_s=1.0),
        dataclasses.replace(GOOD, leftovers={"slots_used": 8.0}),
    ],
)
def test_every_fault_is_seen(bad: Run) -> None:
    assert len(faults(bad)) == 1


@pytest.mark.timeout(200)
@pytest.mark.load
def test_overload_is_bounded(tmp_path: Path) -> None:
    check_overload(tmp_path, 5.0, unbounded)


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.load
def test_overload(tmp_path: Path) -> None:
    check_overload(tmp_path, 20.0)


@pytest.mark.long
@pytest.mark.timeout(1000)
@pytest.mark.load
def test_overload_at_length(tmp_path: Path) -> None:
    check_overload(tmp_path, 120.0)
