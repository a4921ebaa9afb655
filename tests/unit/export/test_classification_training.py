# SPDX-License-Identifier: Apache-2.0
"""The training of an image classifier on synthetic images: views, selection, and runs that are stopped, killed and continued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from attnserve_export.recipe import ClassificationRecipe, RecipeError, load_recipe
from attnserve_export.training.classification.data import changed, hold_back, read_images, training_views
from attnserve_export.training.classification.trainer import ClassificationTrainer
from attnserve_export.training.run import Stopped, cosine_rate
from attnserve_export.training.views import SMALL as SMALL_PICTURES
from attnserve_export.training.views import cleaned
from tests.torch_threads import one_thread  # noqa: F401 - a fixture
from tests.unit.export.training_data import CLASSES, make_cifar10

SMALL = {
    "model.width": 8,
    "model.blocks": 1,
    "data.held_back": 20,
    "schedule.epochs": 3,
    "schedule.batch": 8,
    "schedule.checkpoint_seconds": 0.0,
    "optimizer.warmup_epochs": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cifar10(tmp_path_factory.mktemp("data"))


def recipe(**changes: object) -> ClassificationRecipe:
    found = load_recipe("cbam-cifar10", SMALL | {key.replace("__", "."): value for key, value in changes.items()})
    assert isinstance(found, ClassificationRecipe)
    return found


class Recorded(ClassificationTrainer):
    """Keeps each update's loss; runs the test's action after an update."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.losses: list[float] = []
        self.after = 1_000_000
        self.then = self.request_stop

    def update(self, epoch: int, index: int, rng: np.random.Generator) -> Mapping[str, float]:
        if len(self.losses) == self.after:
            self.then()
        figures = super().update(epoch, index, rng)
        self.losses.append(figures["loss"])
        return figures


class Killed(BaseException):
    """Raised to end a run as SIGKILL would: nothing is saved."""


def kill() -> None:
    raise Killed


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    run = Recorded(recipe(), data, tmp_path_factory.mktemp("whole"))
    run.run()
    return run


def test_a_run_learns_selects_and_sums_up(undisturbed: Recorded) -> None:
    summary = json.loads((undisturbed.folder / "summary.json").read_text())
    assert (summary["epochs"], summary["updates"], len(undisturbed.losses)) == (3, 15, 15)
    assert summary["log"][-1]["loss"] < summary["log"][0]["loss"]
    by_epoch = {line["epoch"]: line["held_back_accuracy"] for line in summary["log"]}
    assert by_epoch[summary["kept_epoch"]] == max(by_epoch.values())
    assert summary["classes"] == list(CLASSES)
    is_right = torch.load(undisturbed.folder / "val.pt", weights_only=True)
    assert set(summary["val_accuracy_cleaned"]) == {"blurred", "rescaled", "denoised"}
    assert summary["val_accuracy"] == pytest.approx(float(is_right.mean()), abs=1e-4)


@pytest.mark.parametrize("kind", ["stopped", "killed"])
def test_a_run_that_is_cut_goes_on_as_if_it_was_not(data: Path, tmp_path: Path, undisturbed: Recorded, kind: str) -> None:
    cut = Recorded(recipe(), data, tmp_path)
    cut.after = 7  # in the second epoch
    cut.then = cut.request_stop if kind == "stopped" else kill
    with pytest.raises(Stopped if kind == "stopped" else Killed):
        cut.run()
    again = Recorded(recipe(), data, tmp_path)
    again.run()
    assert cut.losses + again.losses == undisturbed.losses
    ours, theirs = (torch.load(folder / "best.pt", weights_only=True) for folder in (tmp_path, undisturbed.folder))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_what_a_checkpoint_did_not_hold_is_computed_again(data: Path, tmp_path: Path, undisturbed: Recorded) -> None:
    rare = recipe(schedule__checkpoint_seconds=1e9)  # checkpoints only after epochs
    cut = Recorded(rare, data, tmp_path)
    cut.after, cut.then = 7, kill
    with pytest.raises(Killed):
        cut.run()
    again = Recorded(rare, data, tmp_path)
    again.run()
    assert cut.losses[:5] + again.losses == undisturbed.losses
    assert cut.losses[5:] == again.losses[: len(cut.losses) - 5]


def test_two_processes_do_not_train_in_one_folder(data: Path, tmp_path: Path) -> None:
    first, second = (Recorded(recipe(), data, tmp_path) for _ in range(2))

    def train_too() -> None:
        with pytest.raises(RecipeError, match="another process uses"):
            second.run()
        first.request_stop()

    first.after, first.then = 2, train_too
    with pytest.raises(Stopped):
        first.run()
    assert second.losses == []
    second.run()
    assert len(first.losses) + len(second.losses) == 15


def test_parts_of_a_run_are_the_whole(data: Path, tmp_path: Path, undisturbed: Recorded) -> None:
    parts = [Recorded(recipe(), data, tmp_path) for _ in range(2)]
    assert parts[0].run(1) is None
    assert json.loads((tmp_path / "progress.json").read_text()) == {"epochs": 1.0, "of": 3}
    assert not (tmp_path / "summary.json").exists()
    assert parts[1].run(3) is not None
    assert parts[0].losses + parts[1].losses == undisturbed.losses


def test_a_run_of_another_recipe_is_refused(data: Path, undisturbed: Recorded) -> None:
    with pytest.raises(RecipeError, match="another recipe"):
        ClassificationTrainer(recipe(seed=2), data, undisturbed.folder).run()


def test_a_loss_that_is_not_finite_ends_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 1"):
        ClassificationTrainer(recipe(optimizer__peak_learning_rate=1e30), data, tmp_path).run()


def test_missing_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ATTNSERVE_DATA"):
        ClassificationTrainer(recipe(), tmp_path, tmp_path / "run").run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.altred": 1}, "altred"),
        ({"schedule.epochs": 0}, "at least 1"),
        ({"task": "dance"}, "dance"),
        ({"seed.x": 1}, "not a table"),
    ],
)
def test_a_wrong_recipe_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("cbam-cifar10", change)


@pytest.mark.parametrize(("change", "message"), [({"model__widht": 8}, "widht"), ({"model__width": 9}, "multiple")])
def test_sizes_that_the_model_refuses_are_named(change: dict[str, object], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        ClassificationTrainer(recipe(**change), data, tmp_path).run()


def test_held_back_images_are_the_same_for_all_runs(data: Path) -> None:
    images = read_images(data, "train")
    trained, held = hold_back(images, 20)
    assert (len(trained), len(held)) == (40, 20)
    both = {each.tobytes() for each in (*trained.pixels, *held.pixels)}
    assert len(both) == len(images), "each image is on one side"


def test_views_move_mirror_and_alter(data: Path) -> None:
    pixels = read_images(data, "train").pixels
    plain = training_views(pixels, 0.0, np.random.default_rng(1))
    padded = np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = {
        view.tobytes()
        for top in range(9)
        for left in range(9)
        for view in (padded[0, top : top + 32, left : left + 32], padded[0, top : top + 32, left : left + 32][:, ::-1])
    }
    assert plain[0].tobytes() in windows
    changed = training_views(pixels, 1.0, np.random.default_rng(1))
    assert sum(not np.array_equal(a, b) for a, b in zip(plain, changed, strict=True)) > 50
    assert np.array_equal(changed, training_views(pixels, 1.0, np.random.default_rng(1)))


def test_cleaned_pictures_are_near_and_not_the_same(data: Path) -> None:
    images = read_images(data, "val")
    for name, change in cleaned(SMALL_PICTURES).items():
        found = changed(images, change)
        assert found.pixels.shape == images.pixels.shape, name
        apart = np.abs(found.pixels.astype(int) - images.pixels).mean()
        assert 0 < apart < 40, name


def test_a_warm_up_of_the_whole_run_only_rises() -> None:
    assert [cosine_rate(1.0, step / 4, 1.0) for step in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [cosine_rate(0.2, step / 100, 0.1) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[10] == 0.2
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
