# SPDX-License-Identifier: Apache-2.0
"""The gain of the attention in a generator: what the judge says of its samples and of its twin's.

``python -m attnserve_export.training.generation.gain --runs DIR --data DIR`` prints one JSON object, once the generator's run and
the judge's have weights; the twin's figures and the differences are there as soon as the twin's run has some.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer

from attnserve_export.cli import RUNS, DataOption, RunsOption
from attnserve_export.models.cbam import CbamConfig
from attnserve_export.models.sagan import SaganConfig
from attnserve_export.recipe import ClassificationRecipe, GenerationRecipe, RecipeError, load_recipe
from attnserve_export.training.classification.data import Images, Pixels, read_images
from attnserve_export.training.generation.judge import Features, Judge, Judged, frechet_distance, nearest, variance_within
from attnserve_export.training.generation.trainer import draw, read_generator
from attnserve_export.training.intervals import consecutive_blocks, paired_interval
from attnserve_export.training.report import OutputOption, report
from attnserve_export.training.run import BEST, SUMMARY
from attnserve_export.training.start import folder_name

RECIPE, JUDGE = "sagan-cifar10", "cbam-cifar10"
SIDES: dict[str, dict[str, Any]] = {"generator": {}, "twin": {"model.attention": False}}
"""Changes to the recipe of the generator."""
_NEIGHBOURS = 1000
"""Images whose nearest training image is looked for; it takes some seconds."""


@dataclass(frozen=True, slots=True)
class Samples:
    """A generator's images, the classes that were asked for, and what the judge says of them."""

    pixels: Pixels
    labels: npt.NDArray[np.int64]
    judged: Judged

    def rows(self) -> Features:
        """For each image, the class asked for, the class found and the features: what the intervals are computed from."""
        classes = np.stack((self.labels, self.judged.found), 1).astype(np.float64)
        return np.concatenate((classes, self.judged.features), 1)


def read_samples(folder: Path, recipe: GenerationRecipe, judge: Judge, count: int, num_classes: int) -> Samples:
    """Equally many images of each class of the generator in a run's folder, the same latent vectors for every generator.

    Raises:
        FileNotFoundError: the run has not ended an epoch yet.
    """
    config = SaganConfig(num_classes, **recipe.model)
    average = read_generator(_existing(folder / BEST), config)
    labels = torch.arange(count) % num_classes
    pixels = draw(average, torch.randn(count, config.latent, generator=torch.Generator().manual_seed(0)), labels)
    return Samples(pixels, labels.numpy(), judge(pixels))


def figures(samples: Samples, val: Images, on_val: Judged, train: Pixels) -> dict[str, Any]:
    """The figures of one generator.

    Args:
        samples: of the generator.
        val: real images.
        on_val: what the judge says of them.
        train: the training split as it is stored; the generator was trained on 98 % of it, without block traces.
    """
    is_asked = samples.judged.found == samples.labels
    of_real = variance_within(on_val.features, val.labels)
    ours, reals = (nearest(each[:_NEIGHBOURS], train) for each in (samples.pixels, val.pixels))
    return {
        "samples": len(samples.labels),
        "as_asked": round(float(is_asked.mean()), 4),
        "as_asked_by_class": {
            name: round(float(is_asked[samples.labels == index].mean()), 3) for index, name in enumerate(val.classes)
        },
        "variance_of_real": round(variance_within(samples.judged.features, samples.labels) / of_real, 3),
        "fid": round(frechet_distance(samples.judged.features, on_val.features), 3),
        "nearest_train_image": {
            "median": round(float(np.median(ours)), 2),
            "median_of_val": round(float(np.median(reals)), 2),
            "share_nearer_than_1_percent_of_val": round(float((ours < np.quantile(reals, 0.01)).mean()), 4),
        },
    }


def differences(ours: Samples, twin: Samples, on_val: Judged, draws: int = 500) -> dict[str, list[float]]:
    """Generator less twin: the mean and the bounds of the 95 % interval over samples of the same latent vectors.

    The interval is that of the samples alone, not of other seeds of the training: there is one training of each.
    """
    sides = [ours.rows()], [twin.rows()]
    blocks = consecutive_blocks(len(ours.labels), 1)
    statistics = {
        "as_asked": lambda rows: float((rows[:, 0] == rows[:, 1]).mean()),
        "fid": lambda rows: frechet_distance(rows[:, 2:], on_val.features),
    }
    found = {name: paired_interval(*sides, statistic, blocks, draws=draws) for name, statistic in statistics.items()}
    return {name: [round(each, 4) for each in (interval.mean, interval.low, interval.high)] for name, interval in found.items()}


def judged_runs(data: Path, runs: Path, recipe: str = RECIPE, judge_recipe: str = JUDGE, count: int = 2000) -> dict[str, Any]:
    """The figures of a run and of its twin, and their differences where both have ended after equally many updates.

    Args:
        data: root of the data sets.
        runs: folder of all runs.
        recipe: of the generator, a name or a path.
        judge_recipe: of the classifier.
        count: samples of each generator.

    Raises:
        FileNotFoundError: the data set or the generator is not there, or the judge's training has not ended.
        RecipeError: a recipe is not of the right kind.
    """
    train, val = read_images(data, "train"), read_images(data, "val")
    judge = _read_judge(runs, judge_recipe, len(val.classes))
    on_val = judge(val.pixels)
    result: dict[str, Any] = {"judge": judge_recipe, "judge_accuracy": round(float((on_val.found == val.labels).mean()), 4)}
    sides: dict[str, Samples] = {}
    updates: dict[str, int | None] = {}
    for name, changes in SIDES.items():
        of_side = load_recipe(recipe, changes)
        if not isinstance(of_side, GenerationRecipe):
            raise RecipeError(f"{recipe} is not the recipe of a generator")
        folder = runs / folder_name(recipe, changes)
        if name == "generator" or (folder / BEST).exists():
            sides[name] = read_samples(folder, of_side, judge, count, len(val.classes))
            updates[name] = _updates(folder)
            result[name] = {"updates": updates[name], **figures(sides[name], val, on_val, train.pixels)}
    if len(sides) == len(SIDES) and None not in updates.values() and len(set(updates.values())) == 1:
        result["generator - twin"] = differences(sides["generator"], sides["twin"], on_val)
    return result


def _read_judge(runs: Path, recipe: str, num_classes: int) -> Judge:
    by = load_recipe(recipe)
    if not isinstance(by, ClassificationRecipe):
        raise RecipeError(f"{recipe} is not the recipe of a classifier")
    folder = runs / folder_name(recipe, {})
    if not (folder / SUMMARY).exists():
        raise FileNotFoundError(f"{folder / SUMMARY} is not there: the judge's training has not ended")
    return Judge(folder / BEST, CbamConfig(num_classes, **by.model))


def _updates(folder: Path) -> int | None:
    """Of a run that has ended; None for one that has not."""
    path = folder / SUMMARY
    return int(json.loads(path.read_text(encoding="utf-8"))["updates"]) if path.exists() else None


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: the run has not ended an epoch yet")
    return path


def main(
    data: DataOption = Path("data"),
    runs: RunsOption = RUNS,
    count: Annotated[int, typer.Option(help="Samples of each generator.")] = 2000,
    output: OutputOption = None,
) -> None:
    """Print the judged figures of the generator and of its twin."""
    report(lambda: judged_runs(data, runs.expanduser(), count=count), output)


if __name__ == "__main__":
    typer.run(main)
