# SPDX-License-Identifier: Apache-2.0
"""Ratios of interleaved rounds, and bars that can be missed."""

from __future__ import annotations

from attnserve_loadtest.bench.report import Row, markdown
from attnserve_loadtest.bench.rounds import Ratio, best_of, interleave, ratio


def test_rounds_are_interleaved() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: float(order.append(name) or len(order))) for name in "ab"}
    values = interleave(calls, 3, lambda: order.append("."))
    assert "".join(order) == "a.b." * 3
    assert {name: len(each) for name, each in values.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_taken_inside_a_round() -> None:
    """The machine slows down threefold, which both sides feel."""
    assert ratio([2.0, 6.0, 4.0], [1.0, 3.0, 1.0]) == Ratio(2.0, 2.0, 4.0)
    assert best_of({"a": [1.0, 9.0, 9.0], "b": [3.0, 3.0, 30.0]}) == "b"


def test_bars() -> None:
    low, high = Ratio(0.9, 0.8, 1.0), Ratio(1.3, 1.2, 1.4)
    rows = [Row("speed", each, 1.2, 1.5, is_at_most=False, detail="") for each in (low, high)]
    rows += [Row("latency", each, 1.2, 1.5, is_at_most=True, detail="") for each in (low, high)]
    assert [row.is_reached for row in rows] == [False, True, True, False]
    assert "| speed | **0.90** | 0.80-1.00 | ≥ 1.2 |" in markdown(rows)
