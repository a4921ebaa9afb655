# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the parity tests: an engine over a shipped bundle, its sentences, and its PyTorch module.

A test of another model than the default one parametrizes ``model_id`` (indirectly, or by a fixture of its own).
"""

from __future__ import annotations

from typing import Any

import pytest

from attnserve_server.bundle.loader import load_bundle
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.tasks.translation import TranslationTask
from tests.driving import BUNDLES, DEFAULT_MODEL, SENTENCES, started_engine
from tests.parity.torch_module import module_of_bundle
from tests.torch_threads import one_thread  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def model_id() -> str:
    return DEFAULT_MODEL


@pytest.fixture(scope="module")
def engine(model_id: str) -> EngineLoop:
    return started_engine(load_bundle(BUNDLES[model_id], variant="fp32"))


@pytest.fixture(scope="module")
def all_sources(engine: EngineLoop) -> list[list[int]]:
    task = TranslationTask(engine.bundle)
    return [task.encode(text).tokens for text in SENTENCES]


@pytest.fixture(scope="module")
def model(model_id: str) -> Any:
    return module_of_bundle(BUNDLES[model_id])
