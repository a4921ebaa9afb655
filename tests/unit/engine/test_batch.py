# SPDX-License-Identifier: Apache-2.0
"""The running batch over real slots and a made-up model: rows that join, fork, move and leave, in any order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnserve_server.engine.batch import RunningBatch
from attnserve_server.request import AttentionDetail, DecodeOptions, Hypothesis, SequenceRequest
from tests.reference.beam_search import beam_search
from tests.unit.engine.fakes import BEGIN_ID, CAPACITY, END_ID, NOTHING, VOCAB_SIZE, FakeRunner, Toy, attention

NUM_SLOTS = 20
MARGIN = 1e-5


@dataclass
class Driven:
    """A batch, and what it has answered."""

    runner: FakeRunner = field(default_factory=lambda: FakeRunner(NUM_SLOTS))
    answers: dict[int, tuple[SequenceRequest, list[Hypothesis]]] = field(default_factory=dict)
    most_rows: int = 0
    num_released: int = 0

    def __post_init__(self) -> None:
        self.batch = RunningBatch(self.runner)  # type: ignore[arg-type]

    @property
    def num_reserved(self) -> int:
        return sum(each.request.options.beam_size for each in self.batch.sequences.values())

    def admit(self, requests: list[SequenceRequest]) -> None:
        fitting: list[SequenceRequest] = []
        for request in requests:
            if self.num_reserved + sum(each.options.beam_size for each in fitting) + request.options.beam_size <= NUM_SLOTS:
                fitting.append(request)
        if fitting:
            self.batch.admit(fitting, 0.0)
        self.check()

    def step(self) -> None:
        if not self.batch.num_rows:
            return
        self.batch.step()
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
        """Requests and rows are prefixes of their slots, and every row has one owner."""
        sequences = self.batch.sequences.values()
        assert sorted(each.slot for each in sequences) == list(range(len(sequences)))
        assert sorted(row for each in sequences for row in each.rows) == list(range(self.batch.num_rows))
        assert all(len(each.rows) == len(each.search.live) for each in sequences if not each.search.is_done)
        assert self.batch.num_rows <= self.num_reserved <= NUM_SLOTS

    def check_trails(self) -> None:
        """What each row's state says of its past is what the search says."""
        trail = self.runner.state.buffers["trail"].current
        for sequence in self.batch.sequences.values():
            if sequence.search.is_done:
                continue
            for row, path in zip(sequence.rows, sequence.search.live, strict=True):
                assert trail[row, : len(path.tokens)].tolist() == [BEGIN_ID, *path.tokens[:-1]]

    def check_answers(self) -> int:
        """Compares with the reference; returns how many could be."""
        num_compared = 0
        for request, hypotheses in self.answers.values():
            options = request.options
            expected = beam_search(
                Toy(),
                request.tokens,
                beam_size=options.beam_size,
                max_tokens=options.max_tokens,
                num_hypotheses=options.num_hypotheses,
                length_penalty=options.length_penalty,
                begin_id=BEGIN_ID,
                end_id=END_ID,
            )
            if expected.margin <= MARGIN:
                continue
            num_compared += 1
            assert [one.tokens for one in hypotheses] == [one.tokens for one in expected.hypotheses]
            assert [one.score for one in hypotheses] == pytest.approx([one.score for one in expected.hypotheses], abs=1e-5)
            for one in hypotheses:
                check_attention(request, one)
        return num_compared


def check_attention(request: SequenceRequest, one: Hypothesis) -> None:
    if not request.options.attention:
        assert one.attention is None
        return
    assert one.attention is not None
    found = np.frombuffer(one.attention.data, np.float32).reshape(one.attention.shape)
    source = tuple(request.tokens)
    expected = np.stack([attention(source, tuple(one.tokens[:count])) for count in range(len(one.tokens))])
    if request.options.attention == AttentionDetail.MEAN:
        expected = expected.mean((1, 2))
    assert np.abs(found - expected).max() < 1e-6


@st.composite
def requests(draw: st.DrawFn, request_id: int) -> SequenceRequest:
    beam_size = draw(st.sampled_from([1, 1, 2, 3, 5, 8]))
    return SequenceRequest(
        request_id,
        draw(st.lists(st.integers(4, VOCAB_SIZE - 1), min_size=1, max_size=7)),
        DecodeOptions(
            beam_size=beam_size,
            num_hypotheses=draw(st.integers(1, beam_size)),
            length_penalty=draw(st.sampled_from([0.0, 1.0])),
            max_tokens=draw(st.integers(1, 10)),
            attention=AttentionDetail(draw(st.integers(0, 2))),
        ),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_any_order_of_joining_forking_and_leaving(data: st.DataObject) -> None:
    driven, next_id = Driven(), 0
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


def random_request(rng: random.Random, request_id: int) -> SequenceRequest:
    beam_size = rng.choice([1, 1, 2, 3, 5, 8])
    options = DecodeOptions(
        beam_size=beam_size,
        num_hypotheses=beam_size,
        max_tokens=rng.randint(2, 14),
        attention=AttentionDetail(rng.randint(0, 2)),
    )
    return SequenceRequest(request_id, [rng.randint(4, VOCAB_SIZE - 1) for _ in range(rng.randint(1, 9))], options)


def long_run(driven: Driven, seed: int) -> None:
    rng = random.Random(seed)
    for request_id in range(0, 120, 3):
        driven.admit([random_request(rng, request_id + index) for index in range(rng.randint(1, 3))])
        for _ in range(rng.randint(0, 3)):
            driven.step()
        if rng.random() < 0.1:
            driven.release(rng.randrange(9))
    driven.finish()


@pytest.mark.parametrize("seed", range(3))
def test_long_run(seed: int) -> None:
    driven = Driven()
    long_run(driven, seed)
    assert driven.most_rows > NUM_SLOTS * 3 // 4
    assert driven.num_released > 0
    assert driven.check_answers() > 25


@pytest.mark.parametrize(
    "fault", ["rows are not copied", "one entry too few is copied", "requests are not moved", "in the wrong order"]
)
def test_a_mixed_up_copy_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driven = Driven()
    state = driven.runner.state
    copy_rows, move_request = state.copy_rows, state.move_request
    faults = {
        "rows are not copied": ("copy_rows", lambda sources, targets, length: None),
        "one entry too few is copied": (
            "copy_rows",
            lambda sources, targets, length: copy_rows(sources, targets, max(0, length - 1)),
        ),
        "requests are not moved": ("move_request", lambda source, target: None),
        "in the wrong order": ("copy_rows", lambda sources, targets, length: copy_rows(sources, targets[::-1], length)),
    }
    assert callable(move_request)
    monkeypatch.setattr(state, *faults[fault])
    with pytest.raises(AssertionError):  # noqa: PT012 - any of the two may notice
        long_run(driven, 0)
        driven.check_answers()


def test_model_without_mean_layers_averages_the_named_ones() -> None:
    driven = Driven()
    driven.batch._mean_layers = [1]
    options = DecodeOptions(max_tokens=4, attention=AttentionDetail.MEAN)
    driven.admit([SequenceRequest(0, [5, 6], options)])
    driven.finish()
    (one,) = driven.answers[0][1]
    assert one.attention is not None
    found = np.frombuffer(one.attention.data, np.float32).reshape(one.attention.shape)
    expected = np.stack([attention((5, 6), tuple(one.tokens[:count]))[1].mean(0) for count in range(len(one.tokens))])
    assert np.abs(found - expected).max() < 1e-6


def test_slots_start_with_nothing_of_others() -> None:
    driven = Driven()
    assert (driven.runner.state.buffers["memory"].current == NOTHING).all()
    assert driven.runner.state.buffers["trail"].current.shape == (NUM_SLOTS, CAPACITY)
