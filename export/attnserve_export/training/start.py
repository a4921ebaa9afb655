# SPDX-License-Identifier: Apache-2.0
"""Selects the trainer class and the folder of a recipe's run."""

from __future__ import annotations

import importlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnserve_export.recipe import (
    AnyRecipe,
    CaptionRecipe,
    ClassificationRecipe,
    GenerationRecipe,
    Recipe,
    RecipeError,
    SegmentationRecipe,
    VideoRecipe,
    VisionRecipe,
)

_TRAINERS: dict[type[AnyRecipe], str] = {
    ClassificationRecipe: "classification.trainer:ClassificationTrainer",
    GenerationRecipe: "generation.trainer:GenerationTrainer",
    SegmentationRecipe: "segmentation.trainer:SegmentationTrainer",
    VideoRecipe: "video.trainer:VideoTrainer",
}
"""Trainers of the single-pass models: module below this package, and class."""


def folder_name(recipe: str, changes: Mapping[str, Any]) -> str:
    """Returns the folder of a run, relative to that of all runs: the recipe's name and its changed keys, sorted."""
    parts = (
        f"{key.rpartition('.')[2]}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in sorted(changes.items())
    )
    return "+".join([Path(recipe).stem, *parts])


def is_exportable(recipe: AnyRecipe, folder: Path) -> bool:
    """Whether a run has what `attnserve export` reads; a generator's run has it after its first epoch."""
    has_figures = isinstance(recipe, GenerationRecipe) or (folder / "summary.json").is_file()
    return has_figures and (folder / "best.pt").is_file()


def train_by(
    recipe: AnyRecipe, data: Path, folder: Path, *, device: str = "cpu", epochs: int | None = None, taught: Path | None = None
) -> None:
    """Trains by a recipe until ``epochs`` are done (default: all). On SIGTERM and SIGINT a single-pass model's run saves first.

    Raises:
        RecipeError: an option does not apply to this kind of training.
        FileNotFoundError: the data set is missing.
        attnserve_export.training.run.Stopped: after a signal.
    """
    if taught is not None and not isinstance(recipe, Recipe):
        raise RecipeError("only a translation model has a teacher: leave out --taught")
    if isinstance(recipe, Recipe):
        from attnserve_export.training.trainer import Trainer

        Trainer(recipe, data, folder, device, taught).run(epochs)
    elif isinstance(recipe, CaptionRecipe):
        from attnserve_export.training.captions.trainer import CaptionTrainer

        if device.startswith("cuda"):
            raise RecipeError("a captioning model is trained on the CPU: leave out --device")
        CaptionTrainer(recipe, data, folder).run(epochs)
    else:
        _run_stoppable(recipe, data, folder, device, epochs)


def _run_stoppable(recipe: VisionRecipe, data: Path, folder: Path, device: str, epochs: int | None) -> None:
    module, _, name = _TRAINERS[type(recipe)].partition(":")  # type: ignore[index]
    trainer = getattr(importlib.import_module(f"attnserve_export.training.{module}"), name)(recipe, data, folder, device)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: trainer.request_stop())
    trainer.run(epochs)
