# SPDX-License-Identifier: Apache-2.0
"""Objectives: their syntax, and their verdicts."""

from __future__ import annotations

import pytest

from attnserve_loadtest import slo
from attnserve_loadtest.recording import FIRST_PIECE, STREAM, UNARY, Recorder
from tests.fakes.clock import Clock


@pytest.fixture
def recorder() -> Recorder:
    """100 requests of 1 to 100 ms in 10 seconds, and one that failed."""
    clock = Clock()
    made = Recorder(clock)
    for value in range(1, 101):
        clock.now += 0.1
        made.add(UNARY, value)
    made.fail(UNARY, "UNAVAILABLE")
    return made


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("Translate:p99<120", True),
        ("Translate:p99<90", False),
        ("Translate:p50 < 51ms", True),
        ("mean<51", True),
        ("mean>51", False),
        ("max<99", False),
        ("errors<1%", True),
        ("errors<0.5", False),
        ("rate>9.9/s", True),
        ("Translate:rate>11", False),
    ],
)
def test_verdicts(recorder: Recorder, text: str, is_met: bool) -> None:
    (verdict,) = slo.judge([slo.parse(text)], recorder)
    assert (verdict.event, verdict.is_met) == (UNARY, is_met)


def test_every_kind_of_request_is_judged(recorder: Recorder) -> None:
    recorder.add(STREAM, 500.0)
    recorder.add(FIRST_PIECE, 5.0)
    verdicts = slo.judge([slo.parse("p99<120")], recorder)
    assert [(each.event, each.is_met) for each in verdicts] == [(UNARY, True), (STREAM, False)]
    (verdict,) = slo.judge([slo.parse(f"{FIRST_PIECE}:p99<6")], recorder)
    assert verdict.is_met


def test_event_that_never_happened_misses_its_objective(recorder: Recorder) -> None:
    (verdict,) = slo.judge([slo.parse("TranslateStream:p50<1000")], recorder)
    assert (verdict.value, verdict.is_met) == (None, False)
    (verdict,) = slo.judge([slo.parse("p50<1000")], Recorder())
    assert not verdict.is_met


def test_only_errors(recorder: Recorder) -> None:
    recorder.clear()
    recorder.fail(UNARY, "INTERNAL")
    values = [verdict.value for verdict in slo.judge([slo.parse("p50<1"), slo.parse("errors<50")], recorder)]
    assert values == [None, 100.0]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is no objective"),
        ("p99", "is no objective"),
        ("p99=5", "is no objective"),
        ("Translate:p99<", "is no objective"),
        ("Paint:p99<5", "no event 'Paint'"),
        ("Translate:p100<5", "no measure 'p100'"),
        ("latency<5", "no measure 'latency'"),
        ("p99<1.2.3", "is no number"),
    ],
)
def test_bad_objectives_say_what_is_wrong(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        slo.parse(text)
