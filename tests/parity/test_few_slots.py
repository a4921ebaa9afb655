# SPDX-License-Identifier: Apache-2.0
"""Engines with fewer slots than the rows of a block start, and answer as one with many slots."""

from __future__ import annotations

import pytest

from attnserve_server.bundle.loader import load_bundle
from attnserve_server.request import DecodeOptions, sequence_work
from tests.driving import DEFAULT_BUNDLE, Answer, content, one_by_one, started_engine

SLOTS = (1, 3, 4, 7)


def answers(num_slots: int, num_rows: int, sources: list[list[int]]) -> dict[int, Answer]:
    options = DecodeOptions(num_rows, num_rows)
    requests = [sequence_work(number, source, options) for number, source in enumerate(sources)]
    return content(one_by_one(started_engine(load_bundle(DEFAULT_BUNDLE), num_slots), requests))


@pytest.mark.parametrize("num_slots", SLOTS)
def test_engine_with_few_slots_answers_as_one_with_many(num_slots: int, all_sources: list[list[int]]) -> None:
    assert max(step.block_rows for step in load_bundle(DEFAULT_BUNDLE).variant.steps) > num_slots
    sources = all_sources[:3]
    assert answers(num_slots, min(num_slots, 5), sources) == answers(32, min(num_slots, 5), sources)
