# SPDX-License-Identifier: Apache-2.0
"""Vectorized searches against single searches."""

from __future__ import annotations

import numpy as np
import pytest

from attnserve_server.decoding.search import BeamSearch, Symbols
from attnserve_server.engine.worker.iterative import paths
from attnserve_server.engine.worker.iterative.paths import BeamStep, GreedyRows, RowPaths, advance_beams
from attnserve_server.request import DecodeOptions

END, VOCAB = 3, 40


def candidates(rng: np.random.Generator, size: int, width: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """The best 2K tokens of random distributions; with ties, from few values, so that many sums are equal."""
    scores = (
        rng.integers(-4, 0, (size, width, VOCAB)).astype(np.float32)
        if ties
        else rng.normal(size=(size, width, VOCAB)).astype(np.float32)
    )
    scores[..., END] += 1
    tokens = np.argsort(-scores, axis=-1, kind="stable")[..., : 2 * width]
    return tokens, np.take_along_axis(scores, tokens, -1)


def check(step: BeamStep, totals: np.ndarray, tokens: np.ndarray, log_probs: np.ndarray) -> None:
    size, width = totals.shape
    for index in range(size):
        search = BeamSearch(DecodeOptions(width, max_tokens=99), Symbols(END))
        search.resume([[100 + row] for row in range(width)], totals[index].tolist())
        parents = search.advance(tokens[index].tolist(), log_probs[index].tolist())
        assert step.parents[index].tolist() == parents
        assert step.tokens[index].tolist() == [path.tokens[-1] for path in search.live]
        assert step.totals[index].tolist() == [path.total for path in search.live]
        ended = [(parent, total) for beam, parent, total in step.ended if beam == index]
        assert ended == [(each.path.tokens[0] - 100, each.path.total) for each in search.finished]
        check_places(step.places[index].tolist(), parents)


def check_places(places: list[int], parents: list[int]) -> None:
    assert sorted(places) == list(range(len(places))), "two hypotheses in one row"
    seen = set()
    for place, parent in zip(places, parents, strict=True):
        if parent not in seen:
            assert place == parent, "a first child has moved"
        else:
            assert place not in parents, "a row that is copied from is copied to"
        seen.add(parent)


@pytest.mark.parametrize("width", [2, 4, 5, 8])
@pytest.mark.parametrize("ties", [False, True])
def test_beams_are_those_of_the_search(width: int, ties: bool) -> None:
    rng = np.random.default_rng(width)
    num_ended = num_moved = 0
    for _ in range(30):
        size = int(rng.integers(1, 7))
        totals = -np.sort(rng.integers(0, 3, (size, width)).astype(np.float64) if ties else rng.random((size, width)))
        tokens, log_probs = candidates(rng, size, width, ties=ties)
        step = advance_beams(totals, tokens, log_probs, END)
        check(step, totals, tokens, log_probs)
        num_ended += len(step.ended)
        num_moved += int((step.places != step.parents).sum())
    assert num_ended > 10
    assert num_moved > 10


def test_beams_over_a_vocabulary_smaller_than_twice_their_width() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        totals = -np.sort(rng.random((3, 8)))
        tokens = np.argsort(rng.random((3, 8, 12)), axis=2)  # the end symbol is one of them
        log_probs = -np.sort(rng.random((3, 8, 12)))
        check(advance_beams(totals, tokens, log_probs, END), totals, tokens, log_probs)


def test_a_wrong_order_is_seen() -> None:
    rng = np.random.default_rng(0)
    totals = -rng.random((3, 4))
    tokens, log_probs = candidates(rng, 3, 4, ties=False)
    step = advance_beams(totals, tokens[..., ::-1].copy(), log_probs, END)
    with pytest.raises(AssertionError):
        check(step, totals, tokens, log_probs)


def test_greedy_rows_end_by_symbol_or_limit() -> None:
    rows = RowPaths(np.zeros(4, np.int32), 8)
    greedy, inputs = GreedyRows(rows, END), np.zeros(4, np.int64)
    for row, limit in ((0, 8), (1, 2), (3, 8)):
        greedy.begin(row, limit)
    best = np.array([[5, 6, 7, 8], [9, 10, 11, END]])
    values = np.full((2, 4), -0.5, np.float32)
    assert greedy.advance(best[0], values[0], inputs) == []
    rows.positions[:] += 1
    assert greedy.advance(best[1], values[1], inputs) == [1, 3]
    rows.positions[:] += 1
    assert [rows.of(row) for row in (0, 1, 3)] == [[5, 9], [6, 10], [8, END]]
    assert rows.totals[[0, 1, 3]].tolist() == [-1.0] * 3
    assert inputs.tolist() == [9, 10, 0, END]


@pytest.mark.parametrize("width", [2, 4, 5])
def test_places_of_a_table_are_the_computed_ones(width: int) -> None:
    parents = np.random.default_rng(width).integers(0, width, (300, width))
    assert (paths._places(parents) == paths._computed_places(parents)).all()  # noqa: SLF001
    for row, places in zip(parents.tolist(), paths._places(parents).tolist(), strict=True):  # noqa: SLF001
        check_places(places, row)


@pytest.mark.parametrize("num_rows", [1, 3])
@pytest.mark.parametrize("has_scores", [False, True])
def test_all_rows_of_a_step_are_greedy(num_rows: int, has_scores: bool) -> None:
    """A single row is advanced without array operations; the results are those of several."""
    rows = RowPaths(np.zeros(4, np.int32), 8)
    greedy, inputs = GreedyRows(rows, END), np.zeros(4, np.int64)
    for row in range(num_rows):
        greedy.begin(row, 3)
    for step, token in enumerate((7, 8, 9)):
        values = np.full(num_rows, -0.25, np.float32) if has_scores else None
        ended = greedy.advance(np.full(num_rows, token), values, inputs)
        assert ended == (list(range(num_rows)) if step == 2 else [])
        rows.positions[:] += 1
    assert [rows.of(row) for row in range(num_rows)] == [[7, 8, 9]] * num_rows
    assert rows.totals.tolist() == [-0.75 * has_scores] * num_rows + [0.0] * (4 - num_rows)
    assert inputs.tolist() == [9] * num_rows + [0] * (4 - num_rows)
    assert greedy.advance(np.full(num_rows, END), None, inputs) == list(range(num_rows))


def test_greedy_rows_are_counted() -> None:
    greedy = GreedyRows(RowPaths(np.zeros(4, np.int32), 8), END)
    greedy.begin(1, 8)
    greedy.begin(3, 8)
    greedy.move([3], [0])
    assert (greedy.count, greedy.mask.tolist()) == (2, [True, True, False, False])
    assert greedy.having(np.array([4, 5, 4]), 4) == [0]
    greedy.end(3)
    greedy.end(0)
    assert (greedy.count, greedy.mask.tolist()) == (1, [False, True, False, False])
    greedy.clear()
    assert (greedy.count, greedy.mask.any()) == (0, False)
