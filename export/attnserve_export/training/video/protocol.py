# SPDX-License-Identifier: Apache-2.0
"""Compares the Non-local classifier with its twin without the block and with the baseline.

``python -m attnserve_export.training.video.protocol --data DIR --runs DIR`` reads the runs of the queue ``four-models``: for
each seed a cross-validation over train and val together, by source. In each fold the pairwise function is the one whose inner
models have the lowest loss on their held-back clips. The result is over all seeds, not the best one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import typer

from attnserve_export.cli import RUNS, DataOption, RunsOption
from attnserve_export.models.nonlocal_video import PAIRWISE
from attnserve_export.recipe import RecipeError, VideoRecipe, load_recipe
from attnserve_export.training.intervals import Interval, paired_interval
from attnserve_export.training.report import OutputOption, report
from attnserve_export.training.run import SUMMARY
from attnserve_export.training.start import folder_name
from attnserve_export.training.video.baseline import baseline_margins
from attnserve_export.training.video.data import Clips, joined, read_clips
from attnserve_export.training.video.trainer import PREDICTIONS

Array = npt.NDArray[np.float64]
RECIPE = "nonlocal-fight"


@dataclass(frozen=True, slots=True)
class Predictions:
    """Margins of fight over noFight, (N) for each seed, of clips that the models were not trained on."""

    ours: list[Array]
    twins: list[Array]
    chosen: list[str]
    """Selected pairwise function of each seed and fold."""


def read_predictions(runs: Path, clips: Clips, seeds: Sequence[int], folds: int) -> Predictions:
    """Reads the predictions of all folds; the pairwise function of each fold is selected inside it.

    Raises:
        RecipeError: a run is missing or not finished.
    """
    found = Predictions([], [], [])
    for seed in seeds:
        margins: dict[bool, dict[str, float]] = {True: {}, False: {}}
        for fold in range(folds):
            of_kind = {kind: _finished(runs, seed, fold, kind) for kind in (*PAIRWISE, "none")}
            best = min(PAIRWISE, key=lambda kind: float(of_kind[kind]["held_back_loss"]))
            found.chosen.append(best)
            margins[True] |= of_kind[best]["margins"]
            margins[False] |= of_kind["none"]["margins"]
        found.ours.append(np.array([margins[True][name] for name in clips.names]))
        found.twins.append(np.array([margins[False][name] for name in clips.names]))
    return found


def _finished(runs: Path, seed: int, fold: int, pairwise: str) -> dict[str, Any]:
    path = runs / folder_name(RECIPE, {"seed": seed, "data.fold": fold, "model.pairwise": pairwise}) / PREDICTIONS
    if not path.exists():
        raise RecipeError(f"{path} is missing: finish `attnserve train --queue four-models` first")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def to_ship(runs: Path) -> str:
    """Lists the runs trained on train alone, one a line; the function with the lowest held-back loss is to be shipped."""
    lines = ["trained on train alone:"]
    for kind in (*PAIRWISE, "none"):
        path = runs / folder_name(RECIPE, {"model.pairwise": kind}) / SUMMARY
        if path.exists():
            summary = json.loads(path.read_text(encoding="utf-8"))
            kept = summary["log"][summary["kept_epoch"] - 1]
            lines.append(
                f"{kind:20s} held-back loss {kept['held_back_loss']:.4f}, accuracy {100 * kept['held_back_accuracy']:.1f} at epoch"
                f" {kept['epoch']}; val {100 * summary['test_accuracy']:.1f}"
            )
    return "\n".join(lines)


def is_right(margins: Array, clips: Clips) -> Array:
    """Returns 1 for each clip that is classified correctly, 0 for the others, (N)."""
    found: Array = np.equal(margins > 0, clips.labels == 1).astype(np.float64)
    return found


def compare(ours: Sequence[Array], others: Sequence[Array] | None, clips: Clips) -> Interval:
    """Returns the accuracy of ``ours``, or its gain over ``others``, in points, with a 95 % interval over sources and seeds."""
    rights = [is_right(margins, clips) for margins in ours]
    against = [np.zeros(len(clips))] * len(ours) if others is None else [is_right(margins, clips) for margins in others]
    blocks = [np.flatnonzero(clips.sources == source) for source in np.unique(clips.sources)]
    return paired_interval(rights, against, lambda rows: 100 * float(rows.mean()), blocks)


def figures(predictions: Predictions, baseline: Sequence[Array], clips: Clips, first_of_val: int) -> dict[str, Any]:
    """Returns the comparison, in percent and points, with 95 % intervals over sources and seeds.

    Args:
        predictions: predictions of the models.
        baseline: margins of the baseline, for each seed.
        clips: train and val.
        first_of_val: index of val's first clip; the recipe's sizes were chosen without val, so its mean is reported separately.
    """
    alone = {"non-local": predictions.ours, "twin": predictions.twins, "baseline": list(baseline)}
    accuracies: dict[str, Any] = {}
    for name, margins in alone.items():
        rights = np.stack([is_right(each, clips) for each in margins])
        accuracies[name] = {
            "accuracy": _as_list(compare(margins, None, clips)),
            "of_each_seed": [round(100 * float(right), 2) for right in rights.mean(1)],
            "of_val": round(100 * float(rights[:, first_of_val:].mean()), 2),
        }
    pairs = (("non-local", "twin"), ("non-local", "baseline"), ("twin", "baseline"))
    gains = {f"{ours} - {other}": _as_list(compare(alone[ours], alone[other], clips)) for ours, other in pairs}
    return {"accuracies": accuracies, "gains": gains, "chosen": dict(Counter(predictions.chosen).most_common())}


def _as_list(interval: Interval) -> list[float]:
    return [round(each, 2) for each in (interval.mean, interval.low, interval.high)]


def table(found: dict[str, Any]) -> str:
    """Formats the result of :func:`figures` as lines of text."""
    lines: list[str] = []
    for name, each in found["accuracies"].items():
        mean, low, high = each["accuracy"]
        seeds = " ".join(f"{seed:.1f}" for seed in each["of_each_seed"])
        lines.append(f"{name:24s} {mean:.1f} [{low:.1f}, {high:.1f}]  of each seed {seeds}  of val {each['of_val']:.1f}")
    lines += [f"{pair:24s} {Interval(*interval)}" for pair, interval in found["gains"].items()]
    counts = ", ".join(f"{kind} {count}" for kind, count in found["chosen"].items())
    return "\n".join([*lines, f"chosen in {sum(found['chosen'].values())} folds: {counts}"])


def protocol(data: Path, runs: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Makes the whole comparison from finished runs.

    Raises:
        RecipeError: a run is missing or not finished.
        FileNotFoundError: the data set is missing.
    """
    recipe = load_recipe(RECIPE)
    assert isinstance(recipe, VideoRecipe)
    parts, train, val = recipe.data, read_clips(data, "train"), read_clips(data, "val")
    clips = joined(train, val)
    predictions = read_predictions(runs, clips, seeds, parts.folds)
    baseline = [baseline_margins(clips, parts.folds, parts.inner_folds, seed) for seed in seeds]
    return {"evaluation": "video_gain", "folds": parts.folds, **figures(predictions, baseline, clips, len(train))}


def main(data: DataOption = Path("data"), runs: RunsOption = RUNS, seeds: str = "1,2,3", output: OutputOption = None) -> None:
    """Print the comparison; accuracies are of all clips of train and val, in percent."""
    runs = runs.expanduser()
    typer.echo(to_ship(runs))
    report(lambda: protocol(data, runs, [int(seed) for seed in seeds.split(",")]), output, table)


if __name__ == "__main__":
    typer.run(main)
