# SPDX-License-Identifier: Apache-2.0
"""What the export of a video classifier has of its own: its run, its trunk, its pairwise functions, and its folded norms."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from attnserve_export.graphs import nonlocal_video
from attnserve_export.layers.folded import fold_norms, has_norms
from attnserve_export.registry import build_model
from attnserve_export.trained import run_folder, trained_in_run
from tests.torch_threads import one_thread  # noqa: F401 - a fixture
from tests.unit.export.test_single_pass_export import fresh


def test_a_run_of_a_video_classifier_is_found_by_its_pairwise_function_and_gets_its_trunk(tmp_path: Path) -> None:
    trained = fresh("nonlocal-fight")
    run = tmp_path / "nonlocal-fight+pairwise=embedded_gaussian"
    run.mkdir()
    head = {name.removeprefix("head."): value for name, value in trained.weights.items() if name.startswith("head.")}
    torch.save(head, run / "best.pt")
    (run / "summary.json").write_text(json.dumps(trained.summary), encoding="utf-8")
    assert run_folder(trained.recipe, tmp_path) == run
    found = trained_in_run(trained.recipe, run)
    assert found.weights.keys() == trained.weights.keys()
    (tmp_path / "nonlocal-fight").mkdir()
    assert run_folder(trained.recipe, tmp_path) == tmp_path / "nonlocal-fight", "a run of its own comes first"


@pytest.mark.parametrize("pairwise", ["dot_product", "concatenation"])
def test_pairwise_weights_that_are_no_distribution_are_refused(pairwise: str) -> None:
    model = build_model("nonlocal-video", 2, {"pairwise": pairwise})
    with pytest.raises(ValueError, match="gaussian or embedded_gaussian"):
        nonlocal_video.GRAPHS.single_pass(model)  # type: ignore[misc]


def test_normalisations_beside_linear_layers_are_folded() -> None:
    trained = fresh("nonlocal-fight")
    whole = build_model("nonlocal-video", 2, trained.recipe.model)
    whole.load_state_dict(trained.weights)
    features = torch.rand(2, 6, 7, 7, 80) * 4
    expected = copy.deepcopy(whole).eval().head(features)  # type: ignore[operator]
    fold_norms(whole, nonlocal_video.NORMS, nonlocal_video.LEADING_NORMS)
    assert not has_norms(whole.state_dict())
    for ours, theirs in zip(whole.head(features), expected, strict=True):  # type: ignore[operator]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
