# SPDX-License-Identifier: Apache-2.0
"""The training of a segmentation model on synthetic frames: views, cached features, a run that is killed, and the gain's table."""

from __future__ import annotations

import io
import itertools
import json
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from attnserve_export.recipe import RecipeError, SegmentationRecipe, load_recipe
from attnserve_export.training.run import BEST, CHECKPOINT, Stopped
from attnserve_export.training.segmentation import gain
from attnserve_export.training.segmentation.data import VOID, Cut, Frames, hold_back, read_frames, shares
from attnserve_export.training.segmentation.scores import class_ious, confusion, mean_iou
from attnserve_export.training.segmentation.trainer import FEATURES, SegmentationTrainer, class_weights
from attnserve_export.training.start import folder_name
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

WIDTH, HEIGHT = 48, 40
CHANGES: dict[str, Any] = {
    "data.drive": "B",
    "data.held_back": 2,
    "data.gap": 1,
    "data.passes": 2,
    "data.crop": [32, 32],
    "model.width": 16,
    "model.inner": 8,
    "model.decoder": [16, 16],
    "schedule.epochs": 2,
    "schedule.batch": 2,
    "schedule.checkpoint_seconds": 0.0,
}
CACHED = {"data.cached_views": 3, "data.scale": [1.0, 1.5]}


def add(tar: tarfile.TarFile, name: str, picture: Image.Image, kind: str) -> None:
    file = io.BytesIO()
    picture.save(file, kind)
    member = tarfile.TarInfo(name)
    member.size = len(file.getvalue())
    tar.addfile(member, io.BytesIO(file.getvalue()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of two drives: sky above a road, and a rectangle of one of the other classes. The colour depends on the class."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (root / "camvid").mkdir()
    colours = rng.integers(0, 256, (VOID + 1, 3))
    for split, drives in (("train", "AAAABBBBB"), ("val", "BBB")):
        with tarfile.open(root / "camvid" / f"{split}.tar", "w") as tar:
            for index, drive in reversed(list(enumerate(drives))):  # the reader puts them in order
                labels = np.zeros((HEIGHT, WIDTH), np.uint8)
                labels[HEIGHT // 2 :] = 3
                top, left = rng.integers(0, (HEIGHT - 16, WIDTH - 16))
                labels[top : top + 16, left : left + 16] = [1, 2, 4, 5, 6, 7, 8, 9, 10, VOID][index]
                pixels = np.clip(colours[labels] + rng.integers(-9, 10, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
                add(tar, f"images/{drive}_{index:03d}.jpg", Image.fromarray(pixels), "JPEG")
                add(tar, f"labels/{drive}_{index:03d}.png", Image.fromarray(labels), "PNG")
    return root


def recipe(changes: Mapping[str, Any] | None = None) -> SegmentationRecipe:
    found = load_recipe("dnl-camvid", {**CHANGES, **(changes or {})})
    assert isinstance(found, SegmentationRecipe)
    return found


def test_frames_are_in_the_order_of_drive_and_time(data: Path) -> None:
    frames = read_frames(data, "train")
    assert list(frames.names) == [*(f"A_00{index}" for index in range(4)), *(f"B_00{index}" for index in range(4, 9))]
    assert (frames.pixels.shape, frames.labels.shape) == ((9, HEIGHT, WIDTH, 3), (9, HEIGHT, WIDTH))
    assert shares(frames.labels).sum() == pytest.approx(1)


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ATTNSERVE_DATA"):
        SegmentationTrainer(recipe(), tmp_path, tmp_path / "run").run()


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "camvid").mkdir()
    with tarfile.open(tmp_path / "camvid" / "val.tar", "w") as tar:
        add(tar, "images/A_0.jpg", Image.new("RGB", (4, 4)), "JPEG")
        add(tar, "labels/A_0.png", Image.new("L", (4, 4), VOID + 1), "PNG")
    with pytest.raises(ValueError, match="has the label 12, but the highest label is 11"):
        read_frames(tmp_path, "val")


def test_the_last_frames_of_a_drive_are_held_back_behind_a_gap() -> None:
    names = ["A_1", "A_2", *(f"B_{index}" for index in range(6)), "BB_1"]
    trained, held = hold_back(names, "B", 2, 3)
    assert [names[index] for index in held] == ["B_4", "B_5"]
    assert [names[index] for index in trained] == ["A_1", "A_2", "B_0", "BB_1"]
    with pytest.raises(ValueError, match="drive B has 6 frames: 4 cannot be held back after a gap of 3"):
        hold_back(names, "B", 4, 3)


def test_too_few_frames_to_hold_back_are_the_recipes_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="drive C has 0 frames"):
        SegmentationTrainer(recipe({"data.drive": "C"}), data, tmp_path).run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.passes": 0}, "must be at least 1"),
        ({"data.scale": [2.0, 1.0]}, "data.scale must be two positive numbers in order"),
        ({"data.cached_views": 3}, "data.scale must be at least 1 with data.cached_views"),
        ({"data.crops": [3, 3]}, "unknown field `crops`"),
        ({"model_id": 3}, "model_id"),
    ],
)
def test_a_wrong_recipe_is_refused(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(changes)


def test_a_view_keeps_pixels_and_labels_together() -> None:
    labels = (np.arange(HEIGHT)[:, None] // 8 + np.arange(WIDTH)[None] // 8).astype(np.uint8) % VOID
    pixels = np.repeat(labels[..., None] * 20, 3, axis=2)
    for seed in range(20):
        view, wanted = Cut((32, 32), (0.5, 2.0), 0.0).view(pixels, labels, random.Random(seed))
        assert (view.shape, wanted.shape) == ((32, 32, 3), (32, 32))
        is_known = wanted != VOID
        assert float((np.abs(view[..., 0].astype(int) - wanted * 20.0)[is_known] < 20).mean()) > 0.75


def test_beyond_the_frame_a_view_is_mirrored_and_void() -> None:
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    view, wanted = Cut((WIDTH, HEIGHT), (0.5, 0.5), 0.0).view(pixels, np.zeros((HEIGHT, WIDTH), np.uint8), random.Random(0))
    assert bool((view == 90).all())
    known = np.argwhere(wanted == 0)
    assert int((wanted == VOID).sum()) == HEIGHT * WIDTH * 3 // 4
    assert (known.max(0) - known.min(0) + 1).tolist() == [HEIGHT // 2, WIDTH // 2]


def test_the_mean_iou_is_over_pictures_together_without_void_and_absent_classes() -> None:
    wanted = np.array([[0, 0, 1], [1, VOID, VOID]], np.uint8)
    matrix = confusion(np.array([[0, 1, 1], [1, 4, 4]]), wanted)
    assert matrix.sum() == 4
    assert class_ious(matrix)[:2] == pytest.approx([50, 100 * 2 / 3])
    assert bool(np.isnan(class_ious(matrix)[2:]).all())
    assert mean_iou(np.stack([matrix, matrix])) == pytest.approx((50 + 100 * 2 / 3) / 2)


def test_a_pixel_weighs_1_in_the_mean_and_an_absent_class_nothing() -> None:
    share = np.array([0.9, 0.1, 0.0])
    weights = class_weights(share, 0.5)
    assert float((weights * share).sum()) == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(3)
    assert weights[2] == 0
    assert class_weights(share, 0.0)[:2] == pytest.approx([1, 1])


class Recorded(SegmentationTrainer):
    """Keeps the losses; requests a stop, or ends as a killed process does, after some updates."""

    stop_after = kill_after = 10**9

    def update(self, epoch: int, index: int, rng: np.random.Generator) -> Mapping[str, float]:
        if len(self.losses) == self.kill_after:
            raise KeyboardInterrupt
        figures = super().update(epoch, index, rng)
        self.losses.append(figures["loss"])
        if len(self.losses) == self.stop_after:
            self.request_stop()
        return figures

    def prepare(self) -> None:
        self.losses: list[float] = []
        super().prepare()


@pytest.mark.parametrize("changes", [{}, CACHED], ids=["trunk trained", "trunk cached"])
def test_a_run_that_was_stopped_and_killed_is_the_undisturbed_run(data: Path, tmp_path: Path, changes: Mapping[str, Any]) -> None:
    whole = Recorded(recipe(changes), data, tmp_path / "whole")
    summary = whole.run()
    assert summary is not None
    assert len(whole.losses) == 2 * whole.updates_per_epoch == 12
    assert set(summary) >= {"val_miou", "val_ious", "val_miou_cleaned", "classes"}
    assert len(torch.load(tmp_path / "whole" / "val.pt", weights_only=True)["confusions"]) == 3

    stopped = Recorded(recipe(changes), data, tmp_path / "parts")
    stopped.stop_after = 4
    with pytest.raises(Stopped, match="stopped in epoch 1 after update 4"):
        stopped.run()
    killed = Recorded(recipe(changes), data, tmp_path / "parts")
    killed.kill_after = 5  # in the second epoch; each update before it has a checkpoint
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    rest = Recorded(recipe(changes), data, tmp_path / "parts")
    again = rest.run()
    assert again is not None
    assert stopped.losses + killed.losses + rest.losses == whole.losses
    assert (again["val_miou"], again["kept_epoch"]) == (summary["val_miou"], summary["kept_epoch"])
    mine, theirs = (torch.load(tmp_path / name / BEST, weights_only=True) for name in ("parts", "whole"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert (tmp_path / FEATURES).exists() == bool(changes)


def test_a_trunk_that_is_not_trained_keeps_its_weights_and_its_views_are_shared(data: Path, tmp_path: Path) -> None:
    first = SegmentationTrainer(recipe(CACHED), data, tmp_path / "first")
    first.run(1)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / FEATURES).rglob("*.npy")}
    second = SegmentationTrainer(recipe({**CACHED, "seed": 2, "model.block": "none"}), data, tmp_path / "second")
    second.run(1)
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / FEATURES).rglob("*.npy")}
    assert len(files) == 3 * 4
    mine, theirs = first.model.encoder.state_dict(), second.model.encoder.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    with torch.no_grad():
        pixels = torch.from_numpy(read_frames(data, "train").pixels[:1])
        wanted = first.model.features(pixels, torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool))
    view = first.views[0]
    assert all(np.abs(level[0] - each[0].numpy()).max() < 0.02 for level, each in zip(view.levels, wanted, strict=True))


def test_a_trunk_that_is_trained_changes(data: Path, tmp_path: Path) -> None:
    trainer = SegmentationTrainer(recipe(), data, tmp_path)
    trainer.run(1)
    before = SegmentationTrainer(recipe(), data, tmp_path / "other")
    before.prepare()
    name = "stem.conv.weight"
    assert not torch.equal(trainer.model.encoder.state_dict()[name], before.model.encoder.state_dict()[name])


def test_another_recipes_checkpoint_is_refused(data: Path, tmp_path: Path) -> None:
    SegmentationTrainer(recipe(), data, tmp_path).run(1)
    assert (tmp_path / CHECKPOINT).exists()
    with pytest.raises(RecipeError, match="was made by another recipe"):
        SegmentationTrainer(recipe({"seed": 9}), data, tmp_path).run()


def test_the_recipes_of_the_gain_are_alike_but_for_block_and_seed() -> None:
    alike = []
    for block, seed in itertools.product(gain.BLOCKS, (1, 3)):
        found = load_recipe(gain.RECIPE, {"model.block": block, "seed": seed})
        assert isinstance(found, SegmentationRecipe)
        assert found.data.cached_views > 0
        content = msgspec.to_builtins(found)
        assert (content.pop("seed"), content["model"].pop("block")) == (seed, block)
        alike.append(content)
    assert all(each == alike[0] for each in alike)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Synthetic runs: with "dnl" 3 of 20 pixels of a frame are wrong, with "nonlocal" 4, with "none" 5."""
    for wrong, block in zip((3, 4, 5), gain.BLOCKS, strict=True):
        for seed in gain.SEEDS:
            folder = tmp_path / folder_name(gain.RECIPE, {"model.block": block, "seed": seed})
            folder.mkdir()
            matrices = torch.zeros(25, VOID, VOID, dtype=torch.int64)
            matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 1] = 20 - wrong, wrong, 20
            torch.save({"confusions": matrices, "names": ["frame"] * 25}, folder / "val.pt")
            log = [{"epoch": 1, "held_back_miou": 50.0}]
            (folder / "summary.json").write_text(json.dumps({"kept_epoch": 1, "log": log}), encoding="utf-8")
    return tmp_path


def test_the_table_has_the_gain_of_each_pair_with_its_interval(runs: Path) -> None:
    found = gain.gains(runs, draws=50)
    dnl, none = (100 * ((20 - wrong) / 20 + 20 / (20 + wrong)) / 2 for wrong in (3, 5))
    assert found["val_miou"]["dnl"] == pytest.approx([dnl] * 5, abs=0.01)
    assert found["gains"]["dnl - none"] == pytest.approx([dnl - none] * 3, abs=0.01)
    assert f"dnl - none         {dnl - none:+.2f} [{dnl - none:+.2f}, {dnl - none:+.2f}]" in gain.table(found)


def test_a_run_that_is_not_finished_is_named(runs: Path) -> None:
    folder = runs / folder_name(gain.RECIPE, {"model.block": "none", "seed": 4})
    (folder / "summary.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"block=none\+seed=4 has no summary.json"):
        gain.gains(runs)


def test_frames_can_be_taken_by_their_numbers(data: Path) -> None:
    frames = read_frames(data, "val")
    some: Frames = frames.take(np.array([2, 0]))
    assert some.names == (frames.names[2], frames.names[0])
    assert np.array_equal(some.labels[1], frames.labels[0])
