# SPDX-License-Identifier: Apache-2.0
"""The comparison of the video classifier with its twin and with the baseline: the baseline itself, and the choice inside the folds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from attnserve_export.models.nonlocal_video import PAIRWISE
from attnserve_export.recipe import RecipeError
from attnserve_export.training.queue import read_queue
from attnserve_export.training.start import folder_name
from attnserve_export.training.video import protocol
from attnserve_export.training.video.baseline import baseline_margins, difference_statistics, logistic_regression
from attnserve_export.training.video.data import Clips, joined, read_clips
from tests.torch_threads import one_thread  # noqa: F401 - a fixture
from tests.unit.export.video_data import make_fight_video


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fight_video(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def clips(data: Path) -> Clips:
    return joined(read_clips(data, "train"), read_clips(data, "val"))


def test_the_baseline_tells_motion_from_stillness(clips: Clips) -> None:
    margins = baseline_margins(clips, 5, 2, 1)
    assert ((margins > 0) == (clips.labels == 1)).all()
    assert difference_statistics(clips.pixels[0]).shape == (12,)


def test_logistic_regression_is_at_the_minimum_of_its_loss() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 3))
    labels = (x[:, 0] + rng.normal(size=60) > 0).astype(np.int64)
    plain = torch.from_numpy((x - x.mean(0)) / x.std(0))
    weights = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        margins = plain @ weights[:3] + weights[3]
        target = torch.from_numpy(labels).double()
        total = torch.nn.functional.binary_cross_entropy_with_logits(margins, target) + 0.05 * (weights[:3] ** 2).sum()
        total.backward()
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    expected = (plain @ weights[:3] + weights[3]).detach().numpy()
    np.testing.assert_allclose(logistic_regression(x, labels, 0.1)(x), expected, atol=1e-5)


def write_run(runs: Path, seed: int, fold: int, kind: str, held_back_loss: float, margins: dict[str, float]) -> None:
    folder = runs / folder_name("nonlocal-fight", {"seed": seed, "data.fold": fold, "model.pairwise": kind})
    folder.mkdir(parents=True)
    content = {"held_back_loss": held_back_loss, "held_back_accuracy": 0.5, "margins": margins}
    (folder / "predictions.json").write_text(json.dumps(content), encoding="utf-8")


def test_the_function_is_chosen_inside_each_fold(tmp_path: Path, clips: Clips) -> None:
    right = {name: 1.0 if label else -1.0 for name, label in zip(clips.names, clips.labels, strict=True)}
    halves = {0: clips.names[:8], 1: clips.names[8:]}
    best = {0: "gaussian", 1: "concatenation"}
    for fold, names in halves.items():
        for kind in (*PAIRWISE, "none"):
            # The chosen function predicts the true class, all others the opposite.
            sign = 1 if kind == best[fold] else -1
            write_run(tmp_path, 1, fold, kind, 0.4 if kind == best[fold] else 0.5, {name: sign * right[name] for name in names})
    found = protocol.read_predictions(tmp_path, clips, [1], 2)
    assert found.chosen == ["gaussian", "concatenation"]
    assert protocol.is_right(found.ours[0], clips).all()
    assert not protocol.is_right(found.twins[0], clips).any()
    text = protocol.table(protocol.figures(found, found.twins, clips, 12))
    assert "100.0 [100.0, 100.0]  of each seed 100.0  of val 100.0" in text and "+100.00 [+100.00, +100.00]" in text
    (tmp_path / folder_name("nonlocal-fight", {"seed": 1, "data.fold": 1, "model.pairwise": "none"}) / "predictions.json").unlink()
    with pytest.raises(RecipeError, match=r"pairwise=none.*attnserve train --queue"):
        protocol.read_predictions(tmp_path, clips, [1], 2)


def test_runs_on_train_alone_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / folder_name("nonlocal-fight", {"model.pairwise": "gaussian"})
    folder.mkdir()
    log = [{"epoch": epoch, "held_back_loss": 0.7 - epoch / 10, "held_back_accuracy": 0.5} for epoch in (1, 2, 3)]
    summary = {"kept_epoch": 2, "test_accuracy": 0.75, "log": log}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    lines = protocol.to_ship(tmp_path).splitlines()
    assert len(lines) == 2, "only what is finished"
    assert " ".join(lines[1].split()) == "gaussian held-back loss 0.5000, accuracy 50.0 at epoch 2; val 75.0"


def test_the_command_says_what_is_missing(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, message in ((tmp_path, "ATTNSERVE_DATA"), (data, "attnserve train --queue four-models")):
        with pytest.raises(typer.Exit):
            protocol.main(folder, tmp_path)
        assert message in capsys.readouterr().err


def test_the_command_prints_the_comparison(tmp_path: Path, data: Path, clips: Clips, capsys: pytest.CaptureFixture[str]) -> None:
    for fold in range(5):
        for kind in (*PAIRWISE, "none"):
            write_run(tmp_path, 4, fold, kind, 0.5, dict.fromkeys(clips.names, 1.0))
    protocol.main(data, tmp_path, "4")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("non-local ") and "50.0" in line for line in lines), "half of the clips are fights"
    assert any(line.startswith("baseline ") and "100.0" in line for line in lines)
    assert lines[-1] == "chosen in 5 folds: gaussian 5"


def test_the_queue_has_all_runs_that_the_comparison_reads() -> None:
    parts = read_queue("four-models")
    folders = {part.folder for part in parts}
    for seed in (1, 2, 3):
        for fold in range(5):
            for kind in (*PAIRWISE, "none"):
                assert folder_name("nonlocal-fight", {"seed": seed, "data.fold": fold, "model.pairwise": kind}) in folders
    assert all(folder_name("nonlocal-fight", {"model.pairwise": kind}) in folders for kind in (*PAIRWISE, "none"))
    assert all(part.hours <= 2 for part in parts)
