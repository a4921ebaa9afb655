# SPDX-License-Identifier: Apache-2.0
"""Makes a checked bundle of a generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnserve.v1 import manifest_pb2
from attnserve_export.bundles import stored_model, traced, write_checked
from attnserve_export.generation_checks import Judge, add_golden_images, check_generator, judge_of, stored_loss
from attnserve_export.generation_task import JUDGE, Generation
from attnserve_export.layers.folded import has_norms
from attnserve_export.pass_bundles import MEASURED, declared, refuse_twin, shown
from attnserve_export.recipe import GenerationRecipe
from attnserve_export.registry import build_model
from attnserve_export.trained import TRAINING_FILE, Trained, training_file
from attnserve_export.training.classification.data import read_images

STORED = "stored"
"""Key of what was measured of the stored weights against the trained ones."""


def export_generator(trained: Trained, data_root: Path, models: Path, version: str = "1") -> Path:
    """Exports a generator to ``models/<id>/<version>``, and checks it; the run need not have finished.

    Raises:
        ExportError: the check fails; the destination is unchanged.
        FileNotFoundError: the data set, which names the classes of a run that has not finished, is missing.
    """
    recipe, summary = trained.recipe, dict(trained.summary)
    assert isinstance(recipe, GenerationRecipe)
    refuse_twin(recipe)
    if "classes" not in summary:
        summary["classes"] = list(read_images(data_root, "val").classes)
    task, model = Generation(recipe), stored_model(recipe, trained.weights, len(summary["classes"]))
    manifest = declared(recipe, model, task, summary["classes"], version)
    graphs = traced(recipe, model, manifest)
    judge = _judge(models)

    def complete(folder: Path, full: manifest_pb2.Manifest) -> None:
        measured: dict[str, Any] = check_generator(folder, full, model)
        if has_norms(trained.weights):
            whole = _trained_module(recipe, trained.weights, len(summary["classes"]))
            measured[STORED] = stored_loss(folder, full, whole, judge)
        elif STORED in (before := summary.get(MEASURED, {})):
            measured[STORED] = before[STORED]
        summary[MEASURED] = measured
        add_golden_images(folder, full, model)
        (folder / TRAINING_FILE).write_bytes(training_file(recipe, summary))

    return write_checked(
        models / recipe.model_id / version,
        manifest,
        graphs,
        {TRAINING_FILE: training_file(recipe, summary)},
        complete,
        lambda full: task.card(full, summary, shown(models)),
    )


def _trained_module(recipe: GenerationRecipe, weights: dict[str, torch.Tensor], num_classes: int) -> nn.Module:
    model = build_model(recipe.architecture, num_classes, recipe.model)
    model.load_state_dict(weights)
    return model.eval()


def _judge(models: Path) -> Judge | None:
    """Returns the newest version of the judge that the repository has; None without one."""
    versions = sorted((path for path in (models / JUDGE).glob("*/manifest.json")), key=lambda path: int(path.parent.name))
    return judge_of(versions[-1].parent) if versions else None
