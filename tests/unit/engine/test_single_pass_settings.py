# SPDX-License-Identifier: Apache-2.0
"""The settings of a single-pass model's batches, at its engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnserve_server.bundle.loader import Bundle, load_bundle
from attnserve_server.config import BatchConfig, EngineConfig
from attnserve_server.engine.worker.single_pass.factory import make_engine
from tests.fakes.passes import MODEL_ID, payload, write_bundle
from tests.unit.engine.test_single_pass_engine import work


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_bundle(tmp_path))


def test_setting_of_the_largest_batch_and_of_the_window_is_that_of_the_model(bundle: Bundle) -> None:
    config = EngineConfig(batches={MODEL_ID: BatchConfig(max_batch=2, window_seconds=0.5), "other": BatchConfig(max_batch=1)})
    engine = make_engine(bundle, config)
    for _ in engine.starting():
        pass
    engine.submit(work(0, payload(0)))
    assert 0.3 < engine.due_in_s <= 0.5
    assert engine.step() == []
    engine.submit(work(1, payload(1)))
    assert engine.due_in_s == 0
    assert [event.outcome.batch_size for event in engine.step()] == [2, 2]


def test_window_ends_when_the_engine_holds_all_that_it_is_sent(bundle: Bundle) -> None:
    """Four requests of four keys, two of the largest batches."""
    config = EngineConfig(batches={MODEL_ID: BatchConfig(max_batch=2, window_seconds=0.5)})
    engine = make_engine(bundle, config)
    for _ in engine.starting():
        pass
    contents = [payload(0), payload(0, wants_attention=True), payload(0, 8, 16), payload(0, 8, 16, wants_attention=True)]
    for number, each in enumerate(contents):
        assert engine.due_in_s > 0.3 or not number
        engine.submit(work(number, each))
    assert engine.due_in_s == 0
    assert [event.request_id for event in engine.step()] == [0]
    assert engine.due_in_s > 0.3
