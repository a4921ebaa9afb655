# SPDX-License-Identifier: Apache-2.0
"""The training of an image generator on synthetic images: a run that is stopped or killed continues, and the judge's figures."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnserve_export.recipe import CONFIGS, GenerationRecipe, RecipeError, load_recipe
from attnserve_export.training import start
from attnserve_export.training.generation import data as data_module
from attnserve_export.training.generation import trainer as trainer_module
from attnserve_export.training.generation.data import block_edges, deblocked, deblocked_once
from attnserve_export.training.generation.trainer import GenerationTrainer, draw, read_generator
from attnserve_export.training.queue import read_queue
from attnserve_export.training.run import BEST, CHECKPOINT, LOG, SUMMARY, Stopped
from tests.torch_threads import one_thread  # noqa: F401 - a fixture
from tests.unit.export.made_up_images import CLASSES, RECIPE, write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_images(root)
    return root


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "_HELD", 10)
    monkeypatch.setattr(trainer_module, "_STATISTICS_BATCHES", 2)


@pytest.fixture(scope="module")
def recipe_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "small.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def _recipe(path: Path, changes: Mapping[str, Any] | None = None) -> GenerationRecipe:
    recipe = load_recipe(str(path), changes)
    assert isinstance(recipe, GenerationRecipe)
    return recipe


class _Recorded(GenerationTrainer):
    """Keeps each update's figures; requests a stop after the given update, or is killed in it."""

    def __init__(self, *args: Any, stop_after: int | None = None, die_in: int | None = None) -> None:
        super().__init__(*args)
        self.losses: list[tuple[float, float]] = []
        self._stop_after, self._die_in = stop_after, die_in

    def update(self, epoch: int, index: int, rng: np.random.Generator) -> Mapping[str, float]:
        if len(self.losses) == self._die_in:
            raise KeyboardInterrupt
        found = super().update(epoch, index, rng)
        self.losses.append((found["discriminator_loss"], found["generator_loss"]))
        if len(self.losses) == self._stop_after:
            self.request_stop()
        return found


@pytest.fixture(scope="module")
def undisturbed(data: Path, recipe_path: Path, tmp_path_factory: pytest.TempPathFactory) -> _Recorded:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "_HELD", 10)
        patch.setattr(trainer_module, "_STATISTICS_BATCHES", 2)
        trainer = _Recorded(_recipe(recipe_path), data, tmp_path_factory.mktemp("undisturbed"))
        trainer.run()
    return trainer


def _assert_same(run: _Recorded, losses: list[tuple[float, float]], expected: _Recorded) -> None:
    assert losses == expected.losses and len(losses) == 8
    ours, theirs = (torch.load(each.folder / BEST, weights_only=True) for each in (run, expected))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_that_is_stopped_in_an_epoch_goes_on_as_if_it_had_not_been(
    data: Path, recipe_path: Path, tmp_path: Path, undisturbed: _Recorded
) -> None:
    first = _Recorded(_recipe(recipe_path), data, tmp_path, stop_after=6)
    with pytest.raises(Stopped):
        first.run()
    second = _Recorded(_recipe(recipe_path), data, tmp_path)
    second.run()
    _assert_same(second, first.losses + second.losses, undisturbed)


def test_a_run_that_is_killed_goes_on_from_its_checkpoint(
    data: Path, recipe_path: Path, tmp_path: Path, undisturbed: _Recorded
) -> None:
    first = _Recorded(_recipe(recipe_path), data, tmp_path, die_in=3)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert not (tmp_path / LOG).exists()
    second = _Recorded(_recipe(recipe_path), data, tmp_path)
    second.run()
    _assert_same(second, first.losses + second.losses, undisturbed)


def test_another_seed_gives_other_losses(data: Path, recipe_path: Path, tmp_path: Path, undisturbed: _Recorded) -> None:
    other = _Recorded(_recipe(recipe_path, {"seed": 4}), data, tmp_path)
    other.run(1)
    assert other.losses != undisturbed.losses[:4]


def test_a_run_leaves_figures_and_a_grid_of_samples_for_each_epoch(undisturbed: _Recorded) -> None:
    summary = json.loads((undisturbed.folder / SUMMARY).read_text(encoding="utf-8"))
    assert summary["kept_epoch"] == 2 and summary["classes"] == list(CLASSES)
    names = {"generator_gamma", "discriminator_gamma", "held_back_rank", "trained_rank", "real_seen", "fake_seen"}
    assert all(names <= line.keys() for line in summary["log"])
    grids = sorted((undisturbed.folder / "samples").iterdir())
    assert [Image.open(grid).size for grid in grids] == [(8 * 32, 3 * 32)] * 2


def test_the_kept_weights_are_the_average_with_fixed_statistics(recipe_path: Path, undisturbed: _Recorded) -> None:
    average = read_generator(undisturbed.folder / BEST, undisturbed.config)
    latent, labels = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
    together, alone = draw(average, latent, labels), draw(average, latent[:1], labels[:1])
    assert np.abs(together[:1].astype(int) - alone).max() <= 1
    grid = np.asarray(Image.open(undisturbed.folder / "samples" / "epoch-002.png"))
    fixed = torch.randn(24, 8, generator=torch.Generator().manual_seed(3))
    assert np.abs(draw(average, fixed[:1], torch.tensor([0]))[0].astype(int) - grid[:32, :32]).max() <= 1
    assert not [name for name in average.state_dict() if "parametrizations" in name]


def test_the_rates_are_constant_and_then_fall_to_zero(data: Path, recipe_path: Path, tmp_path: Path) -> None:
    trainer = GenerationTrainer(_recipe(recipe_path), data, tmp_path)
    trainer.prepare()
    found = []
    for progress in (0.0, 0.5, 0.75, 1.0):
        trainer.set_rates(progress)
        found.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers.values()])
    assert found == [pytest.approx([0.001 * share, 0.002 * share]) for share in (1, 1, 0.5, 0)]


def test_the_twin_sees_the_same_images_in_the_same_order(data: Path, recipe_path: Path, tmp_path: Path) -> None:
    seen: dict[bool, list[Any]] = {True: [], False: []}
    for attention in (True, False):
        trainer = GenerationTrainer(_recipe(recipe_path, {"model.attention": attention}), data, tmp_path / str(attention))
        trainer.prepare()
        original = trainer.discriminator.forward

        def keep(image: torch.Tensor, label: torch.Tensor, a: bool = attention, forward: Any = original) -> torch.Tensor:
            seen[a].append((image[:8].clone(), label.clone()))
            return forward(image, label)  # type: ignore[no-any-return]

        trainer.discriminator.forward = keep  # type: ignore[method-assign]
        trainer.one_update()
    for (image, label), (other, other_label) in zip(seen[True][:1], seen[False][:1], strict=True):
        assert torch.equal(image, other) and torch.equal(label, other_label)


def test_training_in_16_bits_keeps_weights_in_32(data: Path, recipe_path: Path, tmp_path: Path) -> None:
    trainer = _Recorded(_recipe(recipe_path, {"precision": "bfloat16"}), data, tmp_path)
    trainer.run(1)
    assert {each.dtype for each in trainer.average.parameters()} == {torch.float32}
    assert trainer.losses


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.colour", 1, "colour"),
        ("data.colour", 1, "colour"),
        ("precision", "float16", "float16"),
        ("optimizer.constant", 1.0, "constant"),
        ("schedule.batch", 0, "batch"),
    ],
)
def test_a_wrong_recipe_is_refused(data: Path, recipe_path: Path, tmp_path: Path, key: str, value: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        GenerationTrainer(_recipe(recipe_path, {key: value}), data, tmp_path).run()


def test_a_missing_data_set_is_named(recipe_path: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train\.npz is missing"):
        start.train_by(_recipe(recipe_path), tmp_path, tmp_path / "run")


def test_a_checkpoint_of_another_recipe_is_refused(data: Path, recipe_path: Path, undisturbed: _Recorded) -> None:
    assert (undisturbed.folder / CHECKPOINT).exists()
    with pytest.raises(RecipeError, match="another recipe"):
        GenerationTrainer(_recipe(recipe_path, {"seed": 9}), data, undisturbed.folder).run()


def test_the_shipped_queue_trains_the_generator_and_its_twin_alike_in_parts_of_two_hours() -> None:
    assert (CONFIGS / "sagan-cifar10.toml").exists()
    parts = [part for part in read_queue("four-models") if part.recipe == "sagan-cifar10"]
    assert {part.folder for part in parts} == {"sagan-cifar10", "sagan-cifar10+attention=false"}
    assert all(part.hours <= 2 for part in parts)
    ends = [part.epochs for part in parts]
    assert ends[: len(ends) // 2] == ends[len(ends) // 2 :]


def _blocks(count: int) -> np.ndarray[Any, Any]:
    """Smooth images after compression."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        small.save(file, "JPEG", quality=40)
        found.append(np.asarray(Image.open(file)))
    return np.stack(found)


def test_deblocking_takes_the_edges_of_the_blocks_out_and_keeps_the_image() -> None:
    before = _blocks(40)
    after = deblocked(before)
    assert block_edges(before) > 1.1
    assert abs(block_edges(after) - 1) < 0.5 * (block_edges(before) - 1)
    assert np.sqrt(np.square(before.astype(float) - after).mean()) < 8


def test_deblocked_images_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _blocks(3)
    after = deblocked_once(before, tmp_path)
    assert np.array_equal(after, deblocked(before))
    assert np.array_equal(after, deblocked(before, processes=2))
    monkeypatch.setattr(data_module, "deblocked", lambda pixels, _: np.zeros_like(pixels))
    assert np.array_equal(deblocked_once(before, tmp_path), after)
    assert not deblocked_once(before[:2], tmp_path).any()
