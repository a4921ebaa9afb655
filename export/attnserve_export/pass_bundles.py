# SPDX-License-Identifier: Apache-2.0
"""Makes a checked bundle of a single-pass model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from attnserve.v1 import manifest_pb2
from attnserve_export.bundles import described, stored_model, traced, write_checked
from attnserve_export.exporter import ExportError
from attnserve_export.parity import EXACT
from attnserve_export.parity_sources import Array
from attnserve_export.pass_golden import add_golden_passes
from attnserve_export.pass_independence import check_independence
from attnserve_export.pass_parity import check_passes
from attnserve_export.pass_runner import PassRunner
from attnserve_export.pass_tasks import METRIC, PassTask, PictureTask, picture_task_of
from attnserve_export.recipe import AnyRecipe, VisionRecipe
from attnserve_export.recording import MAX_PASS_LOSS
from attnserve_export.trained import TRAINING_FILE, Trained, training_file

FORMAT_VERSION, REQUIRES = 2, "single_pass"
MEASURED = "measured"
"""Key of a training summary under which the export keeps what it measured."""


def export_pass_bundle(trained: Trained, data_root: Path, models: Path, version: str = "1") -> Path:
    """Exports a trained model to ``models/<id>/<version>``, and checks it.

    Raises:
        ExportError: the check fails; the destination is unchanged.
        FileNotFoundError: the data sets are missing.
    """
    recipe, summary = trained.recipe, dict(trained.summary)
    assert isinstance(recipe, VisionRecipe)
    refuse_twin(recipe)
    task, classes = picture_task_of(recipe), summary["classes"]
    model = stored_model(recipe, trained.weights, len(classes))
    manifest = declared(recipe, model, task, classes, version)
    graphs = traced(recipe, model, manifest)
    pictures = task.held_out(data_root)

    def complete(folder: Path, full: manifest_pb2.Manifest) -> None:
        measure(folder, full, model, pictures, summary)
        summary[MEASURED]["val"] = val_scores(folder, full, task, summary, data_root)
        (folder / TRAINING_FILE).write_bytes(training_file(recipe, summary))

    return write_checked(
        models / recipe.model_id / version,
        manifest,
        graphs,
        {TRAINING_FILE: training_file(recipe, summary)},
        complete,
        lambda full: task.card(full, summary, shown(models)),
    )


def measure(
    folder: Path, manifest: manifest_pb2.Manifest, model: nn.Module, pictures: Sequence[Array], summary: dict[str, Any]
) -> None:
    """Checks a written bundle: adds the parity report and the golden answers to it, and what was measured to the summary.

    Raises:
        ExportError: a check fails.
    """
    report, counts = check_passes(folder, manifest, model, pictures)
    manifest.parity.CopyFrom(report)
    summary[MEASURED] = {"classes": counts, **check_independence(folder, manifest, pictures)}
    add_golden_passes(folder, manifest, model)


def val_scores(
    folder: Path, manifest: manifest_pb2.Manifest, task: PictureTask, summary: dict[str, Any], data_root: Path
) -> dict[str, Any]:
    """Returns the scores of the plain fp32 graph on val.

    Raises:
        ExportError: the stored weights lose too much against the trained ones.
    """
    variant = next(each for each in manifest.variants if each.name == EXACT)
    found = task.scores(PassRunner(folder, variant.passes[0], manifest.task, is_plain=True).run, data_root)
    loss = task.trained_score(summary) - found[METRIC]
    if not loss <= MAX_PASS_LOSS:
        raise ExportError(f"the stored weights lose {loss:.2f} points on val (allowed: {MAX_PASS_LOSS})")
    return found


def refuse_twin(recipe: AnyRecipe) -> None:
    """Checks that a recipe is of a model with its attention.

    Raises:
        ExportError: it is of a twin.
    """
    sizes = recipe.model
    if not sizes.get("attention", True) or sizes.get("block", "dnl") != "dnl" or sizes.get("pairwise") == "none":
        raise ExportError(f"{recipe.model_id}: a twin without attention is for comparison only; it has no bundle")


def declared(recipe: AnyRecipe, model: nn.Module, task: PassTask, classes: Sequence[str], version: str) -> manifest_pb2.Manifest:
    """Returns the manifest of a single-pass bundle, without graphs and files."""
    manifest = described(recipe, model)
    manifest.format_version, manifest.model_id, manifest.version = FORMAT_VERSION, recipe.model_id, version
    manifest.requires.append(REQUIRES)
    task.describe(manifest, classes)
    return manifest


def shown(models: Path) -> frozenset[str]:
    """Returns the names of the pictures in a repository, which cards may show."""
    return frozenset(path.name for path in models.glob("*") if path.suffix in (".png", ".jpg"))
