# SPDX-License-Identifier: Apache-2.0
"""Fuzz campaigns find planted faults, reduce them, and end in time; the corpus has small text files for every surface."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import strategies as st

from tests import fuzzing
from tests.fuzzing import CORPUS, LONG, QUICK, campaign, corpus, edited, json_mutated, mutated
from tests.seeds import VARIABLE

SURFACES = ("config", "golden", "image", "manifest", "token", "wire")


def test_planted_fault_is_found_and_reduced() -> None:
    failing: list[bytes] = []

    def check(data: bytes) -> None:
        if b"\xff" in data:
            failing.append(data)
            raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        campaign(mutated([b"a" * 50]), check, 20, QUICK)
    assert len(failing[-1]) <= 51


def test_planted_fault_of_a_json_value_is_found() -> None:
    def check(data: bytes) -> None:
        assert str(2**32).encode() not in data
        json.loads(data)

    with pytest.raises(AssertionError):
        campaign(json_mutated([b'{"a": [{"b": 1}]}'], 1), check, 20, QUICK)


class Clock:
    """The campaigns' clock, which goes on by some time with each example."""

    def __init__(self, patch: pytest.MonkeyPatch, seconds: float) -> None:
        self._now, self._seconds, self.given = 0.0, seconds, list[Any]()
        patch.setattr(fuzzing, "time", self)
        patch.setattr(fuzzing, "SCALE", 1.0)

    def monotonic(self) -> float:
        return self._now

    def check(self, given: object) -> None:
        self.given.append(given)
        self._now += self._seconds


def test_campaign_ends_in_time_and_counts_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.125)
    assert campaign(st.integers(), clock.check, 20, QUICK) == len(clock.given) == 160


def test_campaign_that_checks_too_little_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        campaign(st.integers(), Clock(monkeypatch, 5).check, 20, QUICK)


def test_seed_of_a_campaign_selects_its_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(seed: int) -> list[bytes]:
        monkeypatch.setenv(VARIABLE, str(seed))
        clock = Clock(monkeypatch, 1)
        campaign(mutated([b"some bytes"]), clock.check, 5, QUICK)
        return clock.given

    assert first(1) == first(1) != first(2)
    monkeypatch.delenv(VARIABLE)
    assert fuzzing.first_seed(QUICK) == fuzzing.first_seed(QUICK) == 0
    assert fuzzing.first_seed(LONG) != fuzzing.first_seed(LONG)


@pytest.mark.parametrize("kind", fuzzing.EDITS)
def test_edit_changes_bytes_at_its_place(kind: str) -> None:
    assert (
        edited(b"abcdef", kind, 2, 2, b"XY")
        == {
            "set": b"abXYef",
            "flip": b"abgdef",
            "cut": b"abef",
            "insert": b"abXYcdef",
            "repeat": b"abcdcdef",
            "end": b"ab",
        }[kind]
    )


@pytest.mark.parametrize("surface", SURFACES)
def test_corpus_is_small_text(surface: str) -> None:
    assert corpus(surface)
    for path in (CORPUS / surface).iterdir():
        assert path.read_text(encoding="utf-8").isascii() or path.name == "other-digit.json"
        assert path.stat().st_size <= 8192, path


def test_every_surface_of_the_corpus_is_tested() -> None:
    assert sorted(path.name for path in CORPUS.iterdir()) == sorted(SURFACES)
