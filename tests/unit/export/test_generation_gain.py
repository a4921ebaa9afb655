# SPDX-License-Identifier: Apache-2.0
"""The judged figures of a generator and of its twin, on synthetic images and features."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from attnserve_export.models.cbam import Cbam, CbamConfig
from attnserve_export.models.sagan import Generator, SaganConfig, fix_statistics
from attnserve_export.recipe import RecipeError
from attnserve_export.training.generation import gain
from attnserve_export.training.generation.judge import Judge, Judged, frechet_distance, nearest, variance_within
from attnserve_export.training.run import BEST, LOG, SUMMARY
from tests.torch_threads import one_thread  # noqa: F401 - a fixture
from tests.unit.export.made_up_images import CLASSES, RECIPE, pictures, write_images

JUDGE = """
task = "classification"
model_id = "judge"
architecture = "cbam"
seed = 1
label_smoothing = 0.0
[data]
set = "cifar10"
held_back = 3
altered = 0.0
[model]
width = 8
blocks = 1
[optimizer]
peak_learning_rate = 0.1
warmup_epochs = 1
weight_decay = 0.0
[schedule]
epochs = 1
batch = 8
checkpoint_seconds = 0.0
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_images(root)
    return root


@pytest.fixture(scope="module")
def recipe_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "small.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_frechet_distance_is_that_of_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    some, others = rng.normal(0, 1, (200_000, 3)), rng.normal(2, 3, (200_000, 3))
    assert frechet_distance(some, some) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(some, others) == pytest.approx(3 * (2**2 + (3 - 1) ** 2), rel=0.01)


def test_frechet_distance_is_that_of_correlated_features() -> None:
    rng = np.random.default_rng(1)
    some, others = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(400, 4)) @ rng.normal(size=(4, 4))
    product = np.cov(some, rowvar=False) @ np.cov(others, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(product).real).sum()
    traces = np.trace(np.cov(some, rowvar=False)) + np.trace(np.cov(others, rowvar=False))
    expected = np.square(some.mean(0) - others.mean(0)).sum() + traces - 2 * root
    assert frechet_distance(some, others) == pytest.approx(expected)


def test_variance_within_classes_does_not_count_what_is_between_them() -> None:
    features = np.array([[0.0, 0.0], [2.0, 0.0], [100.0, 5.0], [100.0, 9.0]])
    assert variance_within(features, np.array([0, 0, 1, 1])) == pytest.approx((1 + 4) / 2)


def test_the_nearest_image_may_be_mirrored() -> None:
    others, _ = pictures(1500, 5)
    pixels = others[[7, 1400]].copy()
    pixels[1] = pixels[1, :, ::-1]
    pixels[0] = np.where(pixels[0] < 255, pixels[0] + 1, 255)
    assert nearest(pixels, others).tolist() == pytest.approx([1, 0], abs=0.05)


def test_the_judges_features_are_those_before_its_output_layer(tmp_path: Path) -> None:
    model = Cbam(CbamConfig(3, width=8, blocks=1)).eval()
    torch.save(model.state_dict(), tmp_path / BEST)
    pixels, _ = pictures(600, 1)
    judged = Judge(tmp_path / BEST, model.config)(pixels)
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(pixels))
        again = model.output(torch.from_numpy(judged.features).float())
    torch.testing.assert_close(again, logits, rtol=1e-3, atol=1e-4)
    assert np.array_equal(judged.found, logits.argmax(-1).numpy())


def _samples(share: float, seed: int) -> gain.Samples:
    rng = np.random.default_rng(seed)
    labels = np.arange(300) % 3
    found = np.where(rng.random(300) < share, labels, (labels + 1) % 3)
    return gain.Samples(np.zeros((300, 32, 32, 3), np.uint8), labels, Judged(found, rng.normal(seed, 1, (300, 4))))


def test_differences_have_intervals_and_signs() -> None:
    on_val = Judged(np.zeros(500, np.int64), np.random.default_rng(9).normal(size=(500, 4)))
    found = gain.differences(_samples(0.9, 0), _samples(0.5, 1), on_val, draws=100)
    mean, low, high = found["as_asked"]
    assert 0.25 < low < mean < high < 0.55
    assert found["fid"][2] < 0
    assert gain.differences(_samples(0.9, 0), _samples(0.9, 0), on_val, draws=20)["as_asked"] == [0, 0, 0]


@pytest.fixture(scope="module")
def runs(recipe_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of runs with a generator's, its twin's and a judge's, all untrained; and the judge's recipe."""
    root = tmp_path_factory.mktemp("runs")
    judge = tmp_path_factory.mktemp("judge") / "judge.toml"
    judge.write_text(JUDGE, encoding="utf-8")
    torch.manual_seed(0)
    contents = {"judge": Cbam(CbamConfig(3, width=8, blocks=1)).state_dict()}
    for name, attention in (("small", True), ("small+attention=false", False)):
        average = Generator(SaganConfig(3, latent=8, width=8, reduction=4, attention=attention), spectral=False)
        fix_statistics(average, batches=2, batch=12, seed=0)
        contents[name] = average.state_dict()
    for name, content in contents.items():
        (root / name).mkdir()
        torch.save(content, root / name / BEST)
        (root / name / SUMMARY).write_text(json.dumps({"updates": 9}), encoding="utf-8")
    return root, judge


def test_the_judged_figures_of_a_generator_and_its_twin(
    data: Path, recipe_path: Path, runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gain, "_NEIGHBOURS", 20)
    found = gain.judged_runs(data, runs[0], str(recipe_path), str(runs[1]), 60)
    assert json.loads(json.dumps(found)) == found
    for side in ("generator", "twin"):
        assert 0 <= found[side]["as_asked"] <= 1 and found[side]["samples"] == 60
        assert list(found[side]["as_asked_by_class"]) == list(CLASSES)
        assert found[side]["fid"] > 0 and found[side]["variance_of_real"] > 0
    mean, low, high = found["generator - twin"]["fid"]
    assert mean == pytest.approx(found["generator"]["fid"] - found["twin"]["fid"], abs=0.002) and low <= high


def test_a_missing_judge_or_generator_is_named(data: Path, recipe_path: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / BEST).write_bytes((runs[0] / "judge" / BEST).read_bytes())
    with pytest.raises(FileNotFoundError, match="the judge's training has not finished"):
        gain.judged_runs(data, tmp_path, str(recipe_path), str(runs[1]))
    (tmp_path / "judge" / SUMMARY).write_bytes((runs[0] / "judge" / SUMMARY).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"small.best\.pt"):
        gain.judged_runs(data, tmp_path, str(recipe_path), str(runs[1]))


@pytest.mark.parametrize("twin", [{"updates": 8}, None], ids=["fewer updates", "not ended"])
def test_a_twin_of_another_length_is_not_compared(
    data: Path,
    recipe_path: Path,
    runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    twin: dict[str, int] | None,
) -> None:
    monkeypatch.setattr(gain, "_NEIGHBOURS", 20)
    shutil.copytree(runs[0], tmp_path, dirs_exist_ok=True)
    summary = tmp_path / "small+attention=false" / SUMMARY
    if twin is None:
        summary.unlink()
    else:
        summary.write_text(json.dumps(twin), encoding="utf-8")
    found = gain.judged_runs(data, tmp_path, str(recipe_path), str(runs[1]), 30)
    assert (found["generator"]["updates"], found["twin"]["updates"]) == (9, twin and twin["updates"])
    assert "generator - twin" not in found


@pytest.mark.parametrize(("epochs", "is_compared"), [(2, True), (3, False)])
def test_runs_that_were_stopped_are_compared_after_equally_many_epochs(
    data: Path,
    recipe_path: Path,
    runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epochs: int,
    is_compared: bool,
) -> None:
    monkeypatch.setattr(gain, "_NEIGHBOURS", 20)
    shutil.copytree(runs[0], tmp_path, dirs_exist_ok=True)
    for name, count in (("small", 2), ("small+attention=false", epochs)):
        (tmp_path / name / SUMMARY).unlink()
        (tmp_path / name / LOG).write_text('{"epoch": 0}\n' * count, encoding="utf-8")
    found = gain.judged_runs(data, tmp_path, str(recipe_path), str(runs[1]), 30)
    assert (found["generator"]["epochs"], found["twin"]["epochs"]) == (2, epochs)
    assert ("generator - twin" in found) == is_compared


def test_recipes_of_another_kind_are_refused(data: Path, recipe_path: Path, runs: tuple[Path, Path]) -> None:
    with pytest.raises(RecipeError, match="not the recipe of a classifier"):
        gain.judged_runs(data, runs[0], str(recipe_path), str(recipe_path))
    with pytest.raises(RecipeError, match="not the recipe of a generator"):
        gain.judged_runs(data, runs[0], str(runs[1]), str(runs[1]))


def _told(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(gain.main)
    return CliRunner().invoke(app, list(arguments))


def test_the_command_says_what_is_missing(data: Path, tmp_path: Path) -> None:
    result = _told("--data", str(data), "--runs", str(tmp_path))
    assert result.exit_code == 1 and "is missing" in result.output


def test_the_command_prints_and_writes_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gain, "judged_runs", lambda *_, count, bundle: {"samples": count, "bundle": str(bundle)})
    result = _told("--count", "30", "--bundle", "b", "--output", str(tmp_path / "figures.json"))
    assert json.loads(result.output) == {"samples": 30, "bundle": "b"}
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8")) == {"samples": 30, "bundle": "b"}
