# SPDX-License-Identifier: Apache-2.0
"""Thousands of steps of an engine that changes between its paths: every answer is the one that the request gets alone.

The paths are: all rows greedy, beams in blocks of rows, and the general one. Requests join, leave, reach their deadlines and stream at
random.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from attnserve_server.engine.worker.iterative import loop, paths
from attnserve_server.engine.worker.iterative.sequence import Decoding
from attnserve_server.engine.worker.iterative.slots import RowSlots
from attnserve_server.errors import Cancelled, DeadlineExceeded
from attnserve_server.request import DecodeOptions, Done, Failed, Hypothesis, SequenceEvent, Terms, TokensProduced, sequence_work
from attnserve_server.scheduling.scheduler import SchedulerConfig
from tests.fakes.clock import Clock
from tests.fakes.options import any_options
from tests.fakes.runner import NO_UNKNOWN, VOCAB_SIZE, FakeRunner

NUM_SLOTS, NUM_STEPS, BLOCK_SIZES, UNKNOWN = 20, 10_000, (2, 4, 5), 6
STREAM_INTERVAL_S = 3.0
Content = list[tuple[list[int], float, int, object, dict[int, int]]]


@dataclass(frozen=True)
class Kind:
    """A source and options that are asked again and again; the fake model computes each of its distributions once."""

    tokens: list[int]
    options: DecodeOptions


def made_up_kinds(rng: random.Random) -> dict[str, list[Kind]]:
    """Kinds by the path that serves them if no other kind runs."""

    def options(path: str) -> DecodeOptions:
        if path == "general":
            return any_options(rng.choice)
        width = 1 if path == "greedy" else int(path)
        return DecodeOptions(
            width, rng.randint(1, width), max_tokens=rng.choice([1, 6, 20, 20]), omit_score=width == 1 and rng.random() < 0.5
        )

    return {
        path: [Kind([rng.randint(4, VOCAB_SIZE - 1) for _ in range(rng.randint(1, 6))], options(path)) for _ in range(12)]
        for path in ("greedy", "2", "4", "5", "3", "general")
    }


MOODS = [("greedy",), ("4",), ("5",), ("2",), ("2", "4"), ("4", "greedy"), ("3", "5"), ("greedy", "2", "3", "4", "5", "general")]
"""Which kinds arrive during a time."""


def content(hypotheses: list[Hypothesis]) -> Content:
    return [(one.tokens, one.score, one.finish_reason, one.attention, one.copied_from) for one in hypotheses]


@dataclass
class Asked:
    """A request that was sent, and what came for it."""

    kind: Kind
    is_streamed: bool
    deadline: float | None
    is_cancelled: bool = False
    tokens: list[int] = field(default_factory=list)


class Driver:
    """Sends random requests to an engine, and compares its answers."""

    def __init__(self, seed: int, unknown_id: int = NO_UNKNOWN) -> None:
        self.rng, self.clock, self.unknown_id = random.Random(seed), Clock(), unknown_id
        self.runner = FakeRunner(NUM_SLOTS, unknown_id=unknown_id, block_sizes=BLOCK_SIZES)
        self.engine = self._engine(self.runner)
        self.kinds = made_up_kinds(self.rng)
        self.expected: dict[int, Content] = {}
        self.open: dict[int, Asked] = {}
        self.num_answers = self.num_restarts = self.num_dropped = self.num_parts = self.next_id = 0

    def _engine(self, runner: FakeRunner) -> loop.EngineLoop:
        made_up: Any = runner
        config = SchedulerConfig(NUM_SLOTS, admit_wait_s=0.0)
        engine = loop.EngineLoop(made_up, config, self.clock, stream_interval_s=STREAM_INTERVAL_S)
        engine.start()
        return engine

    def run(self, num_steps: int) -> None:
        mood = MOODS[0]
        for step in range(num_steps):
            if step % 50 == 0:
                mood = self.rng.choice(MOODS)
            for _ in range(self.rng.choice([0, 0, 1, 2]) if len(self.open) < 8 else 0):
                self.ask(self.rng.choice(mood), may_stream=mood not in MOODS[1:5])
            if self.open and self.rng.random() < 0.03:
                self.cancel(self.rng.choice(list(self.open)))
            self.step()
        while self.engine.has_work:
            self.step()
        assert not self.open
        assert self.engine.batch.num_rows == 0

    def ask(self, path: str, *, may_stream: bool) -> None:
        kind, now = self.rng.choice(self.kinds[path]), self.clock.now
        is_streamed = may_stream and self.rng.random() < 0.4
        asked = Asked(kind, is_streamed, now + self.rng.randint(1, 30) if self.rng.random() < 0.1 else None)
        self.open[self.next_id] = asked
        terms = Terms(is_streamed=asked.is_streamed, deadline=asked.deadline)
        self.engine.submit(sequence_work(self.next_id, kind.tokens, kind.options, terms))
        self.next_id += 1

    def cancel(self, request_id: int) -> None:
        self.engine.cancel(request_id, "client")
        self.open[request_id].is_cancelled = True

    def step(self) -> None:
        for event in self.engine.step():
            self.check(event)
        self.clock.now += 1.0

    def check(self, event: SequenceEvent) -> None:
        asked = self.open[event.request_id]
        if isinstance(event, TokensProduced):
            assert asked.is_streamed
            assert event.tokens
            asked.tokens += event.tokens
            self.num_parts += 1
            return
        del self.open[event.request_id]
        if isinstance(event, Failed):
            assert event.reason == (Cancelled if asked.is_cancelled else DeadlineExceeded).reason
            self.num_dropped += 1
            return
        assert isinstance(event, Done)
        hypotheses = event.outcome.hypotheses
        assert content(hypotheses) == self.alone(asked.kind), "an answer depends on its batch mates"
        if asked.is_streamed:
            assert asked.tokens == hypotheses[0].tokens
        self.num_answers += 1
        self.num_restarts += any(one.copied_from for one in hypotheses)

    def alone(self, kind: Kind) -> Content:
        """The answer of an engine that runs nothing else and has no graph for blocks of rows."""
        if id(kind) not in self.expected:
            engine = self._engine(FakeRunner(NUM_SLOTS, unknown_id=self.unknown_id))
            engine.submit(sequence_work(0, kind.tokens, kind.options))
            events: list[SequenceEvent] = []
            while engine.has_work:
                events += engine.step()
            (answer,) = events
            assert isinstance(answer, Done)
            self.expected[id(kind)] = content(answer.outcome.hypotheses)
        return self.expected[id(kind)]


def test_every_answer_is_the_one_alone() -> None:
    driver = Driver(1)
    driver.run(NUM_STEPS)
    layouts = driver.runner.layouts
    assert all(layouts[size] > NUM_STEPS // 50 for size in (0, *BLOCK_SIZES)), layouts
    assert driver.runner.num_repeated > NUM_STEPS // 20
    assert driver.num_answers > NUM_STEPS // 4
    assert driver.num_dropped > NUM_STEPS // 100
    assert driver.num_parts > NUM_STEPS // 4


def test_requests_that_start_again_to_keep_their_attention() -> None:
    """An unknown symbol in an answer, or in a part of a stream, needs its aligned source token."""
    driver = Driver(3, UNKNOWN)
    driver.run(NUM_STEPS // 5)
    assert driver.num_restarts > NUM_STEPS // 50
    assert driver.num_answers > NUM_STEPS // 20


class SameLayout:
    """A planted fault: the layout of the step before is kept when a group has joined."""

    @staticmethod
    def plant(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        batch = driver.engine.batch
        admit = batch.admit

        def keeping(group: list[Decoding], now: float) -> None:
            layout = batch._layout  # noqa: SLF001
            admit(group, now)
            batch._layout = layout  # noqa: SLF001

        monkeypatch.setattr(batch, "admit", keeping)


class NoInput:
    """A planted fault: greedy rows get their old tokens as the next inputs."""

    @staticmethod
    def plant(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        advance = paths.GreedyRows.advance
        monkeypatch.setattr(
            paths.GreedyRows,
            "advance",
            lambda self, tokens, log_probs, inputs: advance(self, tokens, log_probs, inputs.copy()),
        )


class UnmovedRows:
    """A planted fault: rows get their places in blocks without their state."""

    @staticmethod
    def plant(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        align = RowSlots.align
        monkeypatch.setattr(RowSlots, "align", lambda *args: [] if align(*args) is not None else None)


class LateTokens:
    """A planted fault: a stream skips a token."""

    @staticmethod
    def plant(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        of = paths.RowPaths.of
        monkeypatch.setattr(
            driver.engine.batch.vectorized.paths, "of", lambda row: of(driver.engine.batch.vectorized.paths, row)[1:]
        )


@pytest.mark.parametrize("fault", [SameLayout, NoInput, UnmovedRows, LateTokens])
def test_a_planted_fault_is_seen(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(2)
    for kind in (kind for kinds in driver.kinds.values() for kind in kinds):
        driver.alone(kind)  # by an engine without the fault
    fault.plant(driver, monkeypatch)
    with pytest.raises((AssertionError, IndexError)):
        driver.run(2000)
