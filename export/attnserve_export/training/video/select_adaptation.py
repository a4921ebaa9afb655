# SPDX-License-Identifier: Apache-2.0
"""Compares settings of the adaptation to encoded clips, on training clips only.

``python -m attnserve_export.training.video.select_adaptation --data DIR --runs DIR`` adapts the inner models of the finished run on
train alone. Each is measured on the training clips whose sources it was not trained on, so val is not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import typer

from attnserve_export.cli import RUNS, DataOption, RunsOption
from attnserve_export.models.nonlocal_video import NonlocalHead
from attnserve_export.recipe import RecipeError, VideoRecipe, load_recipe
from attnserve_export.trained import run_folder
from attnserve_export.training.report import OutputOption, report
from attnserve_export.training.run import CHECKPOINT
from attnserve_export.training.video.adapt import Material, adapt, probabilities, skew
from attnserve_export.training.video.encoded import ENCODINGS
from attnserve_export.training.video.protocol import RECIPE
from attnserve_export.training.video.trainer import VideoTrainer

CANDIDATES = "0.3:10,1:0,1:10,1:30,2:10,3:0"
"""Weight of the consistency, and number of directions that the head no longer reads."""


def compare(data: Path, runs: Path, candidates: list[str]) -> dict[str, Any]:
    """Returns for each candidate the percentage of held-back clips that are classified correctly, and how they differ encoded.

    Raises:
        RecipeError: the run is missing or not finished, the recipe has no adaptation, or a candidate is not WEIGHT:DIRECTIONS.
        FileNotFoundError: the data set is missing.
    """
    recipe = load_recipe(RECIPE)
    assert isinstance(recipe, VideoRecipe)
    return compare_run(VideoTrainer(recipe, data, run_folder(recipe, runs)), candidates)


def compare_run(run: VideoTrainer, candidates: list[str]) -> dict[str, Any]:
    """The same for a run, which is not changed."""
    if run.recipe.adaptation is None:
        raise RecipeError(f"{run.recipe.model_id}: the recipe has no adaptation")
    path = run.folder / CHECKPOINT
    if not path.exists():
        raise RecipeError(f"{path} is missing: finish `attnserve train {run.recipe.model_id}` first")
    parsed = [_parsed(each) for each in candidates]
    run.prepare()
    trained = torch.load(path, weights_only=True)["modules"]
    material = run.material()
    measured = (_measured(run, trained, material, each) for each in parsed)
    return dict(zip(candidates, measured, strict=True))


def _parsed(candidate: str) -> dict[str, float]:
    weight, _, directions = candidate.partition(":")
    try:
        return {"consistency": float(weight), "directions": int(directions)}
    except ValueError as error:
        raise RecipeError(f"a candidate is WEIGHT:DIRECTIONS, such as 1:10, not {candidate!r}") from error


def _measured(run: VideoTrainer, trained: dict[str, Any], material: Material, settings: dict[str, float]) -> dict[str, Any]:
    assert run.recipe.adaptation is not None
    adaptation = msgspec.structs.replace(run.recipe.adaptation, **settings)
    recipe = msgspec.structs.replace(run.recipe, adaptation=adaptation)
    found: list[np.ndarray[Any, np.dtype[np.float64]]] = []
    for name, held in run.held.items():
        head = run.modules[name]
        assert isinstance(head, NonlocalHead)
        head.load_state_dict(trained[name])
        adapt(head, material, run.trained[name], recipe)
        found.append(np.stack([probabilities(head, each, held) for each in (material.views[0], *material.encoded)]))
    plain, *encoded = np.concatenate(found, 1)
    is_fight = run.clips.labels[np.concatenate(list(run.held.values()))] == 1
    accuracy = round(100 * float(np.equal(plain > 0.5, is_fight).mean()), 1)
    of_encoding = {each.name: skew(plain, values) for each, values in zip(ENCODINGS, encoded, strict=True)}
    return {"accuracy": accuracy, "encodings": of_encoding}


def main(
    data: DataOption = Path("data"), runs: RunsOption = RUNS, candidates: str = CANDIDATES, output: OutputOption = None
) -> None:
    """Print accuracy and skew of the held-back training clips for each candidate."""
    torch.set_num_threads(1)
    report(lambda: compare(data, runs.expanduser(), candidates.split(",")), output)


if __name__ == "__main__":
    typer.run(main)
