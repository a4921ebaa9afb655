# SPDX-License-Identifier: Apache-2.0
"""The running batch over real slots and a fake model: rows that join, fork, move and leave, in any order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnserve_server.engine.worker.iterative.batch import RunningBatch
from attnserve_server.engine.worker.iterative.sequence import Decoding
from attnserve_server.request import AttentionDetail, DecodeOptions, Hypothesis, SequenceWork, sequence_work
from tests.fakes.options import any_options, plain_options
from tests.fakes.runner import BEGIN_ID, CAPACITY, END_ID, HEADS, NOTHING, VOCAB_SIZE, FakeRunner, Toy, attention
from tests.reference.answer import reference_answer

NUM_SLOTS = 20
MARGIN = 1e-5


@dataclass
class Driven:
    """A batch, and its answers."""

    runner: FakeRunner = field(default_factory=lambda: FakeRunner(NUM_SLOTS))
    answers: dict[int, tuple[SequenceWork, list[Hypothesis]]] = field(default_factory=dict)
    most_rows: int = 0
    num_released: int = 0
    vectorized_widths: set[int] = field(default_factory=set)
    """Rows of the searches that were decided all at once."""

    def __post_init__(self) -> None:
        self.batch = RunningBatch(self.runner)  # type: ignore[arg-type]

    @property
    def num_reserved(self) -> int:
        return sum(each.num_rows for each in self.batch.sequences.values())

    def admit(self, requests: list[SequenceWork]) -> None:
        fitting: list[SequenceWork] = []
        for request in requests:
            if self.num_reserved + sum(each.num_rows for each in fitting) + request.num_rows <= NUM_SLOTS:
                fitting.append(request)
        if fitting:
            self.batch.admit([Decoding.of(each) for each in fitting], 0.0)
        self.check()

    def step(self) -> None:
        if not self.batch.num_rows:
            return
        self.batch.advance(self.batch.run())
        self.vectorized_widths |= {len(each.rows) for each in self.batch.sequences.values() if each.is_vectorized}
        self.check_trails()
        for sequence in list(self.batch.sequences.values()):
            if sequence.search.is_done:
                self.answers[sequence.request.request_id] = sequence.request, self.batch.hypotheses(sequence)
                self.batch.release(sequence.request.request_id)
                self.check()
        self.most_rows = max(self.most_rows, self.batch.num_rows)

    def release(self, index: int) -> None:
        ids = list(self.batch.sequences)
        if ids:
            self.batch.release(ids[index % len(ids)])
            self.num_released += 1
        self.check()

    def finish(self) -> None:
        while self.batch.num_rows:
            self.step()
        assert not self.batch.sequences

    def check(self) -> None:
        """Every slot and every row has one owner; the runner checks that a step gets prefixes of them."""
        sequences = self.batch.sequences.values()
        assert len({each.slot for each in sequences}) == len(sequences)
        assert len({row for each in sequences for row in each.rows}) == self.batch.num_rows
        assert all(len(each.rows) == len(each.search.live) for each in sequences if not each.search.is_done)
        assert self.batch.num_rows <= self.num_reserved <= NUM_SLOTS

    def check_trails(self) -> None:
        """The tokens in each row's state are those of its search."""
        trail = self.runner.state.buffers["trail"].current
        for sequence in self.batch.sequences.values():
            if sequence.search.is_done:
                continue
            for row, tokens in zip(sequence.rows, self.tokens_of(sequence), strict=True):
                assert trail[row, : len(tokens)].tolist() == [BEGIN_ID, *tokens[:-1]]

    def tokens_of(self, sequence: Decoding) -> list[list[int]]:
        if sequence.is_vectorized:
            return [self.batch.vectorized.paths.of(row) for row in sequence.rows]
        return [path.tokens for path in sequence.search.live]

    def check_answers(self) -> list[DecodeOptions]:
        """Compares with the reference; returns the options of the compared answers."""
        compared = []
        for request, hypotheses in self.answers.values():
            expected = reference_answer(
                Toy(bool(request.payload.options.coverage_penalty)),
                request.payload.tokens,
                request.payload.options,
                begin_id=BEGIN_ID,
                end_id=END_ID,
            )
            for one in hypotheses:
                check_attention(request, one)
            if expected.margin <= MARGIN:
                continue
            compared.append(request.payload.options)
            assert [one.tokens for one in hypotheses] == [one.tokens for one in expected.hypotheses]
            assert [one.finish_reason for one in hypotheses] == [one.finish_reason for one in expected.hypotheses]
            assert [one.score for one in hypotheses] == pytest.approx([one.score for one in expected.hypotheses], abs=1e-5)
        return compared


def check_attention(request: SequenceWork, one: Hypothesis) -> None:
    if not request.payload.options.attention:
        assert one.attention is None
        return
    assert one.attention is not None
    found = np.frombuffer(one.attention.data, np.float32).reshape(one.attention.shape)
    source = tuple(request.payload.tokens)
    expected = np.stack([attention(source, tuple(one.tokens[:count])) for count in range(len(one.tokens))])
    if request.payload.options.attention == AttentionDetail.MEAN:
        expected = expected.mean((1, 2))
    assert np.abs(found - expected).max() < 1e-6


@st.composite
def requests(draw: st.DrawFn, request_id: int) -> SequenceWork:
    tokens = draw(st.lists(st.integers(4, VOCAB_SIZE - 1), min_size=1, max_size=7))
    options = draw(st.sampled_from([any_options, plain_options]))
    return sequence_work(request_id, tokens, options(lambda values: draw(st.sampled_from(values))))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_any_order_of_joining_forking_and_leaving(data: st.DataObject) -> None:
    driven, next_id = Driven(FakeRunner(NUM_SLOTS, block_sizes=data.draw(st.sampled_from([(), (2, 3, 5)])))), 0
    for _ in range(data.draw(st.integers(1, 12))):
        group = []
        for _ in range(data.draw(st.integers(0, 3))):
            group.append(data.draw(requests(next_id)))
            next_id += 1
        driven.admit(group)
        for _ in range(data.draw(st.integers(0, 3))):
            driven.step()
        if data.draw(st.integers(0, 3)) == 0:
            driven.release(data.draw(st.integers(0, 9)))
    driven.finish()
    driven.check_answers()


def random_request(rng: random.Random, request_id: int) -> SequenceWork:
    tokens = [rng.randint(4, VOCAB_SIZE - 1) for _ in range(rng.randint(1, 9))]
    return sequence_work(request_id, tokens, rng.choice([any_options, plain_options])(rng.choice))


def long_run(driven: Driven, seed: int) -> None:
    rng = random.Random(seed)
    for request_id in range(0, 240, 3):
        driven.admit([random_request(rng, request_id + index) for index in range(rng.randint(1, 3))])
        for _ in range(rng.randint(0, 3)):
            driven.step()
        if rng.random() < 0.1:
            driven.release(rng.randrange(9))
    driven.finish()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block_sizes", [(), (2, 3, 5)])
def test_long_run(seed: int, block_sizes: tuple[int, ...]) -> None:
    driven = Driven(FakeRunner(NUM_SLOTS, block_sizes=block_sizes))
    long_run(driven, seed)
    assert driven.most_rows > NUM_SLOTS * 3 // 4
    assert len(driven.vectorized_widths) > 2
    assert 1 in driven.vectorized_widths
    assert driven.num_released > 0
    compared = driven.check_answers()
    assert len(compared) > 40
    assert sum(each.beam_size > 1 for each in compared) > 10
    assert sum(each.sampling is not None and each.num_hypotheses > 1 for each in compared) > 3
    assert sum(bool(each.prefix) for each in compared) > 10
    assert sum(bool(each.coverage_penalty) for each in compared) > 10


@pytest.mark.parametrize(
    "fault", ["rows are not copied", "one entry too few is copied", "requests are not moved", "in the wrong order"]
)
def test_a_mixed_up_copy_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driven = Driven(FakeRunner(NUM_SLOTS, block_sizes=(2, 3, 5)))
    state = driven.runner.state
    copy_rows, move_request = state.copy_rows, state.move_request
    faults = {
        "rows are not copied": ("copy_rows", lambda sources, targets, length: None),
        "one entry too few is copied": (
            "copy_rows",
            lambda sources, targets, length: copy_rows(sources, targets, max(0, length - 1)),
        ),
        "requests are not moved": ("move_request", lambda source, target, length: None),
        "in the wrong order": ("copy_rows", lambda sources, targets, length: copy_rows(sources, targets[::-1], length)),
    }
    assert callable(move_request)
    monkeypatch.setattr(state, *faults[fault])
    with pytest.raises(AssertionError):  # noqa: PT012 - any of the two may notice
        long_run(driven, 0)
        driven.check_answers()


@pytest.mark.parametrize(("layers", "heads"), [([1], []), ([], [0]), ([1], [1]), ([0, 1], [0, 1])])
def test_mean_is_that_of_the_named_layers_and_heads(layers: list[int], heads: list[int]) -> None:
    runner = FakeRunner(NUM_SLOTS)
    runner.bundle.manifest.attention.mean_layers.extend(layers)
    runner.bundle.manifest.attention.mean_heads.extend(heads)
    driven = Driven(runner)
    options = DecodeOptions(max_tokens=4, attention=AttentionDetail.MEAN)
    driven.admit([sequence_work(0, [5, 6], options)])
    driven.finish()
    (one,) = driven.answers[0][1]
    assert one.attention is not None
    found = np.frombuffer(one.attention.data, np.float32).reshape(one.attention.shape)
    chosen = np.ix_(layers or [0, 1], heads or list(range(HEADS)))
    expected = np.stack([attention((5, 6), tuple(one.tokens[:count]))[chosen].mean((0, 1)) for count in range(len(one.tokens))])
    assert np.abs(found - expected).max() < 1e-6


def test_slots_start_with_nothing_of_others() -> None:
    driven = Driven()
    assert (driven.runner.state.buffers["memory"].current == NOTHING).all()
    assert driven.runner.state.buffers["trail"].current.shape == (NUM_SLOTS, CAPACITY)
