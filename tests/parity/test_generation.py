# SPDX-License-Identifier: Apache-2.0
"""Bundles of generators in the repository: their size, their reports, and their images and attention against PyTorch's module.

The repository may have none; ``ATTNSERVE_MODELS`` names another one. A planted fault shows that the bar can be missed.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from attnserve.v1 import manifest_pb2
from attnserve_export.bundle_writer import read_manifest
from attnserve_export.generation_checks import ATTENTION, IMAGE, GeneratorRunner, drawn, exact_of, reference
from tests.parity.torch_module import module_of_bundle
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

MIB = 1 << 20
TOLERANCE = 1e-4
LEAST_AS_ASKED = 60.0
MODELS = Path(os.environ.get("ATTNSERVE_MODELS", Path(__file__).parents[2] / "deploy" / "models"))
FOLDERS = [
    path.parent
    for path in sorted(MODELS.glob("*/*/manifest.json"))
    if read_manifest(path.parent).task == manifest_pb2.TASK_GENERATION
]
bundles = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)


@bundles
def test_bundle_is_within_its_size(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2 * MIB


@bundles
def test_bundle_reports_parity_and_its_samples(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert len(manifest.parity.cases) >= 6
    assert max(each.max_abs_difference for each in manifest.parity.cases) <= manifest.parity.tolerance == TOLERANCE
    measured = {each.variant: each.value for each in manifest.quality if each.metric == "as_asked" and not each.part}
    assert all(value >= LEAST_AS_ASKED for value in measured.values())
    assert "Batch mates: an image alone and in batches" in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


@bundles
@pytest.mark.parametrize("count", [1, 7])
def test_images_and_attention_are_pytorchs(folder: Path, count: int) -> None:
    manifest, model = read_manifest(folder), module_of_bundle(folder)
    feeds = drawn(manifest, count, 11)
    wanted = reference(model, feeds)
    for each in exact_of(manifest).passes:
        found = GeneratorRunner(folder, each).run(feeds)
        assert np.abs(found[IMAGE] - wanted[IMAGE]).max() <= TOLERANCE
        if each.gives_attention:
            np.testing.assert_allclose(found[ATTENTION], wanted[ATTENTION], atol=1e-5)
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        dict(wrong.named_parameters())["output.bias"][0] += 1e-3
    assert np.abs(reference(wrong, feeds)[IMAGE] - wanted[IMAGE]).max() > TOLERANCE
