# SPDX-License-Identifier: Apache-2.0
"""The gain of CBAM over its twin without attention: paired runs of equal seeds, compared on the images of val.

``python -m attnserve_export.training.classification.gain --runs DIR`` prints it when the pairs are trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

from attnserve_export.cli import RUNS, RunsOption
from attnserve_export.recipe import RecipeError
from attnserve_export.training.intervals import paired_interval
from attnserve_export.training.report import OutputOption, report
from attnserve_export.training.start import folder_name

RECIPE = "cbam-cifar10"
SEEDS = (1, 2, 3)
EPOCHS = 12


def gain(runs: Path) -> dict[str, Any]:
    """Returns accuracies on val in percent by seed, and the mean difference with its 95 % interval over seeds and images.

    Args:
        runs: folder of all training runs.

    Raises:
        RecipeError: a run is missing; the text names it and the command that trains it.
    """
    found = {attention: [_is_right(runs, seed, attention=attention) for seed in SEEDS] for attention in (True, False)}
    images = [np.array([index]) for index in range(len(found[True][0]))]
    interval = paired_interval(found[True], found[False], lambda rows: 100 * float(rows.mean()), images)
    return {
        "evaluation": "classification_gain",
        "model": RECIPE,
        "epochs": EPOCHS,
        "val_accuracy": {str(seed): round(100 * float(found[True][at].mean()), 2) for at, seed in enumerate(SEEDS)},
        "val_accuracy_of_twin": {str(seed): round(100 * float(found[False][at].mean()), 2) for at, seed in enumerate(SEEDS)},
        "gain": [round(each, 2) for each in (interval.mean, interval.low, interval.high)],
    }


def _is_right(runs: Path, seed: int, *, attention: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
    folder = runs / folder_name(RECIPE, {"schedule.epochs": EPOCHS, "seed": seed, "model.attention": attention})
    if not (folder / "summary.json").exists():
        raise RecipeError(f"{folder} is not finished: attnserve train --queue four-models")
    epochs = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["epochs"]
    if epochs != EPOCHS:
        raise RecipeError(f"{folder} has {epochs} epochs instead of {EPOCHS}")
    stored: np.ndarray[Any, np.dtype[np.float32]] = torch.load(folder / "val.pt", weights_only=True).numpy()
    return stored


def main(
    runs: RunsOption = RUNS,
    output: OutputOption = None,
) -> None:
    """Print the accuracies of the pairs and the gain with its interval, in points."""
    report(lambda: gain(runs.expanduser()), output)


if __name__ == "__main__":
    typer.run(main)
