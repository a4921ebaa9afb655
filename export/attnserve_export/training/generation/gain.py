# SPDX-License-Identifier: Apache-2.0
"""The gain of the attention in a generator: a classifier's figures of its samples and of its twin's.

``python -m attnserve_export.training.generation.gain --runs DIR --data DIR`` prints one JSON object. The generator's run and the
judge's run must have weights; the twin's figures and the differences are included if the twin's run has weights. With
``--bundle DIR`` the generator is that of a bundle, whose run may be gone or have gone on.
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

from attnserve_export.bundle_writer import read_manifest
from attnserve_export.cli import RUNS, DataOption, RunsOption
from attnserve_export.generation_checks import PIXELS, GeneratorRunner, exact_of
from attnserve_export.models.cbam import CbamConfig
from attnserve_export.models.sagan import SaganConfig
from attnserve_export.recipe import ClassificationRecipe, GenerationRecipe, RecipeError, load_recipe
from attnserve_export.trained import read_training
from attnserve_export.training.classification.data import Images, Pixels, read_images
from attnserve_export.training.generation.judge import Features, Judge, Judged, frechet_distance, nearest, variance_within
from attnserve_export.training.generation.trainer import draw, read_generator
from attnserve_export.training.intervals import consecutive_blocks, paired_interval
from attnserve_export.training.report import OutputOption, report
from attnserve_export.training.run import BEST, LOG, SUMMARY
from attnserve_export.training.start import folder_name

RECIPE, JUDGE = "sagan-cifar10", "cbam-cifar10"
SIDES: dict[str, dict[str, Any]] = {"generator": {}, "twin": {"model.attention": False}}
"""Changes to the generator's recipe."""
_BATCH = 100
_NEIGHBOURS = 1000
"""Number of images whose nearest training image is searched; this takes some seconds."""


@dataclass(frozen=True, slots=True)
class Samples:
    """A generator's images, their requested classes, and the judge's output."""

    pixels: Pixels
    labels: npt.NDArray[np.int64]
    judged: Judged

    def rows(self) -> Features:
        """Returns the requested class, the found class and the features of each image: the input of the intervals."""
        classes = np.stack((self.labels, self.judged.found), 1).astype(np.float64)
        return np.concatenate((classes, self.judged.features), 1)


def read_samples(folder: Path, recipe: GenerationRecipe, judge: Judge, count: int, num_classes: int) -> Samples:
    """Generates equally many images of each class with the generator of a run; all generators get the same latent vectors.

    Raises:
        FileNotFoundError: the run has not finished an epoch yet.
    """
    config = SaganConfig(num_classes, **recipe.model)
    average = read_generator(_existing(folder / BEST), config)
    latent, labels = _drawn(count, config.latent, num_classes)
    pixels = draw(average, latent, labels)
    return Samples(pixels, labels.numpy(), judge(pixels))


def bundle_samples(folder: Path, judge: Judge, count: int, num_classes: int) -> Samples:
    """Generates images as :func:`read_samples`, of the same latent vectors, with the fp32 graph of a bundle.

    Raises:
        FileNotFoundError: there is no bundle.
    """
    manifest = read_manifest(folder)
    latent, labels = (each.numpy() for each in _drawn(count, manifest.single_pass.latent.size, num_classes))
    runner = GeneratorRunner(folder, exact_of(manifest).passes[0])
    parts = [slice(at, at + _BATCH) for at in range(0, count, _BATCH)]
    pixels = np.concatenate([runner.run({"latent": latent[part], "label": labels[part]})[PIXELS] for part in parts])
    return Samples(pixels, labels, judge(pixels))


def _drawn(count: int, size: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(0)), torch.arange(count) % num_classes


def figures(samples: Samples, val: Images, on_val: Judged, train: Pixels) -> dict[str, Any]:
    """Returns the figures of one generator.

    Args:
        samples: samples of the generator.
        val: real images.
        on_val: the judge's output for them.
        train: the training split as stored; the generator was trained on 98 % of it, without block artefacts.
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
    """Returns generator - twin: the mean and the bounds of the 95 % interval over samples of the same latent vectors.

    The interval covers the samples only, not other training seeds: each was trained once.
    """
    sides = [ours.rows()], [twin.rows()]
    blocks = consecutive_blocks(len(ours.labels), 1)
    statistics = {
        "as_asked": lambda rows: float((rows[:, 0] == rows[:, 1]).mean()),
        "fid": lambda rows: frechet_distance(rows[:, 2:], on_val.features),
    }
    found = {name: paired_interval(*sides, statistic, blocks, draws=draws) for name, statistic in statistics.items()}
    return {name: [round(each, 4) for each in (interval.mean, interval.low, interval.high)] for name, interval in found.items()}


def judged_runs(
    data: Path, runs: Path, recipe: str = RECIPE, judge_recipe: str = JUDGE, count: int = 2000, bundle: Path | None = None
) -> dict[str, Any]:
    """Returns the figures of a run and of its twin, and their differences if both had equally many updates or epochs.

    A run that has not finished is judged by the weights after its last epoch.

    Args:
        data: root of the data sets.
        runs: folder of all runs.
        recipe: the generator's recipe, a name or a path.
        judge_recipe: the classifier's recipe.
        count: number of samples of each generator.
        bundle: folder of the generator's bundle; None for its run.

    Raises:
        FileNotFoundError: the data set or the generator is missing, or the judge's training has not finished.
        RecipeError: a recipe is of the wrong kind.
    """
    train, val = read_images(data, "train"), read_images(data, "val")
    judge = _read_judge(runs, judge_recipe, len(val.classes))
    on_val = judge(val.pixels)
    result: dict[str, Any] = {
        "evaluation": "generation_gain",
        "judge": judge_recipe,
        "judge_accuracy": round(float((on_val.found == val.labels).mean()), 4),
    }
    sides: dict[str, Samples] = {}
    lengths: dict[str, tuple[int | None, int | None]] = {}
    for name, changes in SIDES.items():
        of_side = load_recipe(recipe, changes)
        if not isinstance(of_side, GenerationRecipe):
            raise RecipeError(f"{recipe} is not the recipe of a generator")
        folder = runs / folder_name(recipe, changes)
        if name == "generator" or (folder / BEST).exists():
            if name == "generator" and bundle is not None:
                sides[name] = bundle_samples(bundle, judge, count, len(val.classes))
                summary = read_training(bundle)[1]
                updates, epochs = lengths[name] = summary.get("updates"), summary["epochs"]
            else:
                sides[name] = read_samples(folder, of_side, judge, count, len(val.classes))
                updates, epochs = lengths[name] = _updates(folder), _epochs(folder)
            done = {"updates": updates, "epochs": epochs, "planned_epochs": of_side.schedule.epochs}
            result[name] = {**done, **figures(sides[name], val, on_val, train.pixels)}
    if len(sides) == len(SIDES) and any(one is not None and one == other for one, other in zip(*lengths.values(), strict=True)):
        result["generator - twin"] = differences(sides["generator"], sides["twin"], on_val)
    return result


def _read_judge(runs: Path, recipe: str, num_classes: int) -> Judge:
    by = load_recipe(recipe)
    if not isinstance(by, ClassificationRecipe):
        raise RecipeError(f"{recipe} is not the recipe of a classifier")
    folder = runs / folder_name(recipe, {})
    if not (folder / SUMMARY).exists():
        raise FileNotFoundError(f"{folder / SUMMARY} is missing: the judge's training has not finished")
    return Judge(folder / BEST, CbamConfig(num_classes, **by.model))


def _updates(folder: Path) -> int | None:
    """Returns the number of updates of a finished run; None for another one."""
    path = folder / SUMMARY
    return int(json.loads(path.read_text(encoding="utf-8"))["updates"]) if path.exists() else None


def _epochs(folder: Path) -> int | None:
    """Returns the number of epochs that a run has finished; None for one without a log."""
    path = folder / LOG
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else None


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: the run has not finished an epoch yet")
    return path


def main(
    data: DataOption = Path("data"),
    runs: RunsOption = RUNS,
    count: Annotated[int, typer.Option(help="Number of samples of each generator.")] = 2000,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle whose generator to judge; else that of the run.")] = None,
    output: OutputOption = None,
) -> None:
    """Print the judged figures of the generator and of its twin."""
    report(lambda: judged_runs(data, runs.expanduser(), count=count, bundle=bundle), output)


if __name__ == "__main__":
    typer.run(main)
