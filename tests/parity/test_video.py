# SPDX-License-Identifier: Apache-2.0
"""The bundle of the video classifier: its size, its report, and its probabilities and attention against PyTorch's module."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attnserve_export.bundle_writer import read_manifest
from attnserve_export.pass_runner import PROBABILITIES, PassRunner, reference, stacked
from tests.clips import moving
from tests.parity.torch_module import module_of_bundle
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

MIB = 1 << 20
TOLERANCE = 1e-4
FOLDER = Path(__file__).parents[2] / "deploy" / "models" / "nonlocal-fight" / "1"


@pytest.fixture(scope="module")
def model() -> Any:
    return module_of_bundle(FOLDER)


def test_bundle_is_within_its_size() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 3 * MIB


def test_bundle_reports_parity() -> None:
    parity = read_manifest(FOLDER).parity
    assert len(parity.cases) >= 6
    assert max(each.max_abs_difference for each in parity.cases) <= parity.tolerance == TOLERANCE
    assert "Batch mates: a clip alone and in batches" in (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("count", [1, 3])
def test_probabilities_and_attention_of_clips_are_pytorchs(model: Any, count: int) -> None:
    manifest = read_manifest(FOLDER)
    clip = manifest.single_pass.clip
    clips = [np.stack(moving(clip.frames, clip.size.width, clip.size.height))[::step] for step in (1, -1, 1)][:count]
    feeds = stacked(manifest.single_pass, clips, np.random.default_rng(0))
    wanted = reference(model, feeds)
    for each in next(variant for variant in manifest.variants if variant.name == "fp32").passes:
        found = PassRunner(FOLDER, each, manifest.task).run(feeds)
        np.testing.assert_allclose(found[PROBABILITIES], wanted[PROBABILITIES], atol=TOLERANCE)
        if each.gives_attention:
            np.testing.assert_allclose(found["pairwise"], wanted["pairwise"], atol=1e-5)
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        for weights in wrong.parameters():
            weights *= 1.01
    assert np.abs(reference(wrong, feeds)["pairwise"] - wanted["pairwise"]).max() > 1e-5
    assert np.abs(reference(wrong, feeds)[PROBABILITIES] - wanted[PROBABILITIES]).max() > TOLERANCE
