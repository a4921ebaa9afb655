# SPDX-License-Identifier: Apache-2.0
"""The training of a video classifier on synthetic clips: folds, views, and runs that are stopped, killed and continued."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from attnserve_export.recipe import RecipeError, VideoRecipe, load_recipe
from attnserve_export.training.run import Stopped
from attnserve_export.training.video.data import Clips, grouped_folds, joined, read_clips, sample_frames
from attnserve_export.training.video.features import FeatureCache, view_of
from attnserve_export.training.video.trainer import VideoTrainer, outer_parts
from tests.torch_threads import one_thread  # noqa: F401 - a fixture
from tests.unit.export.video_data import make_fight_video, recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fight_video(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def clips(data: Path) -> Clips:
    return joined(read_clips(data, "train"), read_clips(data, "val"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, which share the cached features."""
    return tmp_path_factory.mktemp("runs")


class Recorded(VideoTrainer):
    """Keeps each update's losses; runs the test's action after an update."""

    def __init__(self, recipe: VideoRecipe, data: Path, folder: Path) -> None:
        super().__init__(recipe, data, folder)
        self.losses: list[Mapping[str, float]] = []
        self.after = 1_000_000
        self.then: Callable[[], None] = self.request_stop

    def update(self, epoch: int, index: int, rng: np.random.Generator) -> Mapping[str, float]:
        if len(self.losses) == self.after:
            self.then()
        figures = super().update(epoch, index, rng)
        self.losses.append(figures)
        return figures


class Killed(BaseException):
    """Raised to end a run as SIGKILL would: nothing is saved."""


def kill() -> None:
    raise Killed


@pytest.fixture(scope="module")
def undisturbed(data: Path, runs: Path) -> Recorded:
    run = Recorded(recipe(), data, runs / "whole")
    run.run()
    return run


def test_a_run_learns_selects_and_sums_up(undisturbed: Recorded, clips: Clips) -> None:
    summary = json.loads((undisturbed.folder / "summary.json").read_text())
    assert (summary["epochs"], summary["updates"], len(undisturbed.losses)) == (3, 9, 9)
    assert summary["log"][-1]["loss"] < summary["log"][0]["loss"]
    by_epoch = {line["epoch"]: line["held_back_loss"] for line in summary["log"]}
    assert by_epoch[summary["kept_epoch"]] == min(by_epoch.values())
    found = json.loads((undisturbed.folder / "predictions.json").read_text())
    assert found["held_back_loss"] == min(by_epoch.values())
    assert list(found["margins"]) == list(clips.names[12:]), "val is tested"
    rights = [(margin > 0) == clips.labels[clips.names.index(name)] for name, margin in found["margins"].items()]
    assert summary["test_accuracy"] == pytest.approx(np.mean(rights))


@pytest.mark.parametrize("kind", ["stopped", "killed"])
def test_a_run_that_is_cut_goes_on_as_if_it_was_not(data: Path, runs: Path, undisturbed: Recorded, kind: str) -> None:
    cut = Recorded(recipe(), data, runs / kind)
    cut.after = 4  # in the second epoch
    cut.then = cut.request_stop if kind == "stopped" else kill
    with pytest.raises(Stopped if kind == "stopped" else Killed):
        cut.run()
    again = Recorded(recipe(), data, runs / kind)
    again.run()
    assert cut.losses + again.losses == undisturbed.losses
    ours, theirs = (torch.load(folder / "best.pt", weights_only=True) for folder in (cut.folder, undisturbed.folder))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_no_source_is_on_two_sides_of_a_run(data: Path, runs: Path, clips: Clips) -> None:
    run = VideoTrainer(recipe(data__fold=1), data, runs / "sides")
    run.prepare()
    tested = {*clips.sources[run.tested]}
    assert 2 <= len(run.tested) <= 4
    assert {"model", "inner_0", "inner_1"} == set(run.trained)
    assert sorted(np.concatenate(list(run.held.values()))) == sorted(run.trained["model"])
    for name, trained in run.trained.items():
        unseen = tested | {*clips.sources[run.held[name]]} if name in run.held else tested
        assert not unseen & {*clips.sources[trained]}


def test_a_twin_sees_the_same_clips_and_begins_with_the_same_weights(data: Path, runs: Path) -> None:
    ours, twin = (VideoTrainer(recipe(model__pairwise=kind), data, runs / kind) for kind in ("dot_product", "none"))
    for run in (ours, twin):
        torch.manual_seed(1)
        run.prepare()
    with_block = ours.modules["model"].state_dict()
    assert all(torch.equal(value, with_block[name]) for name, value in twin.modules["model"].state_dict().items())
    losses = []
    for run in (ours, twin):
        torch.manual_seed(2)
        losses.append(run.update(0, 0, np.random.default_rng(3)))
    assert losses[0] == losses[1], "the block is the identity before its first update"


def test_all_folds_together_test_each_clip_once(data: Path) -> None:
    train, val = read_clips(data, "train"), read_clips(data, "val")
    tested = np.concatenate([outer_parts(train, val, fold, 5, 7)[1] for fold in range(5)])
    assert sorted(tested) == list(range(16))


def test_folds_keep_sources_whole_and_classes_even() -> None:
    rng = np.random.default_rng(1)
    sources = np.array([f"s{number:02d}" for number in rng.integers(0, 20, 200)])
    labels = rng.integers(0, 2, 200)
    folds = grouped_folds(labels, sources, 4, 1)
    assert all(len({*folds[sources == source]}) == 1 for source in np.unique(sources))
    assert all(15 <= ((folds == fold) & (labels == label)).sum() <= 35 for fold in range(4) for label in (0, 1))
    assert np.array_equal(folds, grouped_folds(labels, sources, 4, 1))
    assert not np.array_equal(folds, grouped_folds(labels, sources, 4, 2))
    with pytest.raises(ValueError, match="20 sources do not make 21 folds"):
        grouped_folds(labels, sources, 21, 1)


def test_frames_are_taken_evenly_from_the_first_to_the_last() -> None:
    assert sample_frames(32) == list(range(32))
    assert sample_frames(63) == list(range(0, 63, 2))
    assert sample_frames(20)[:4] == [0, 1, 1, 2] and sample_frames(20)[-1] == 19
    assert sample_frames(1) == [0] * 32
    assert sample_frames(10, 4) == [0, 3, 6, 9]
    with pytest.raises(ValueError, match="at least one frame"):
        sample_frames(0)


def test_views_add_no_motion(clips: Clips) -> None:
    still, moving = clips.pixels[0], clips.pixels[1]
    assert np.array_equal(view_of(moving, 1, "a")[:, :, ::-1], view_of(moving, 0, "a"))
    others = [view_of(moving, view, "a") for view in range(2, 8)]
    assert all(each.shape == moving.shape for each in others)
    assert len({each.tobytes() for each in others}) == 6
    assert np.array_equal(others[0], view_of(moving, 2, "a"))
    frozen = np.repeat(still[:1], 32, 0)
    for view in range(2, 8):
        assert not np.diff(view_of(frozen, view, "a").astype(int), axis=0).any()


def test_features_of_other_clips_are_refused(undisturbed: Recorded, runs: Path, tmp_path: Path, clips: Clips) -> None:
    (of_val,) = runs.glob("features-fight_video/*/val-0.npy")  # the folder between is named after trunk and settings
    folder = tmp_path / of_val.parent.name
    folder.mkdir()
    shutil.copy(of_val, folder / "train-0.npy")
    with pytest.raises(ValueError, match="other clips"):
        FeatureCache(tmp_path, print).view("train", clips, 0)


def test_missing_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ATTNSERVE_DATA"):
        VideoTrainer(recipe(), tmp_path, tmp_path / "run").run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.fold": 5}, "from 0 to 4"),
        ({"data.fold": -2}, "from 0 to 4"),
        ({"data.inner_folds": 1}, "at least 2"),
        ({"data.views": 0}, "at least 1"),
        ({"data.veiws": 1}, "veiws"),
    ],
)
def test_a_wrong_recipe_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("nonlocal-fight", change)


@pytest.mark.parametrize(("change", "message"), [({"model__widht": 8}, "widht"), ({"model__pairwise": "cosine"}, "cosine")])
def test_sizes_that_the_model_refuses_are_named(
    change: dict[str, object], message: str, data: Path, runs: Path, undisturbed: Recorded
) -> None:
    with pytest.raises(RecipeError, match=message):
        VideoTrainer(recipe(**change), data, runs / "refused").run()
