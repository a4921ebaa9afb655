# SPDX-License-Identifier: Apache-2.0
"""Reads what a bundle is made from: a training run, or an existing bundle.

A bundle holds its weights exactly as they were trained and rounded, so it can be exported again without its run. A value that has a
parameter's name in a graph is read by that name; for parameters that a graph stores in another form, the architecture gives the
inverse (:attr:`attnserve_export.graphs.spec.Graphs.restore`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from attnserve.v1 import manifest_pb2
from attnserve_export.bundle_writer import PACKED, SCALES, read_manifest
from attnserve_export.exporter import TRANSPOSED, ExportError
from attnserve_export.layers.efficientnet import imagenet_weights
from attnserve_export.models.nonlocal_video import trunk_weights
from attnserve_export.recipe import AnyRecipe, GenerationRecipe, VideoRecipe, VisionRecipe, recipe_from
from attnserve_export.registry import ARCHITECTURES
from attnserve_export.training.start import folder_name

TRAINING_FILE = "training.json"
TOKENIZER_FILE = "tokenizer.model"
PREFIX = "model."
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model, before it is exported."""

    recipe: AnyRecipe
    weights: dict[str, torch.Tensor]
    tokenizer: bytes
    """Empty for a model without text."""
    summary: dict[str, Any]


def training_file(recipe: AnyRecipe, summary: dict[str, Any]) -> bytes:
    """Returns the training record that a bundle keeps: recipe and summary."""
    content = {"recipe": msgspec.to_builtins(recipe), "summary": summary}
    return (json.dumps(content, indent=1) + "\n").encode()


def trained_in_run(recipe: AnyRecipe, run: Path) -> Trained:
    """Reads a run folder of `attnserve train`.

    Raises:
        FileNotFoundError: the run has no selected weights; or it has not finished, and its model needs figures of the end.
    """
    selected = run / "best.pt"
    if not selected.is_file():
        cure = "train it with `attnserve train`, or name the folder of the runs by --runs"
        raise FileNotFoundError(f"no trained model in {run}: {cure}; {_runs_in(run.parent)}")
    weights = torch.load(selected, weights_only=True, map_location="cpu")
    if isinstance(recipe, VideoRecipe):
        weights = whole_model(weights)
    path = run / "summary.json"
    if isinstance(recipe, GenerationRecipe) and not path.exists():
        return Trained(recipe, weights, b"", summary_so_far(recipe, run, weights))
    return Trained(recipe, weights, _tokenizer(recipe, run), json.loads(path.read_text(encoding="utf-8")))


def _runs_in(runs: Path) -> str:
    """Returns in words which runs of a folder have a trained model."""
    found = sorted(selected.parent.name for selected in runs.glob("*/best.pt"))
    return f"trained runs in {runs}: {', '.join(found)}" if found else f"{runs} has no trained run"


def summary_so_far(recipe: GenerationRecipe, run: Path, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Returns the summary of a generator's run that was stopped before its last epoch, without the names of the classes.

    Raises:
        FileNotFoundError: the run has no log.
    """
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return {
        "epochs": len(log),
        "planned_epochs": recipe.schedule.epochs,
        "kept_epoch": len(log),
        "parameters": {"average": sum(each.numel() for name, each in weights.items() if not name.endswith(statistics))},
        "train_seconds": round(sum(line["seconds"] for line in log)),
        "train_cpu_seconds": round(sum(line["cpu_seconds"] for line in log)),
        "log": log,
    }


def whole_model(head: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adds the frozen trunk to the head of a video classifier, which alone is trained.

    Raises:
        FileNotFoundError: the package with the trunk's weights is not installed.
    """
    trunk = trunk_weights(imagenet_weights())
    return {f"trunk.{name}": value for name, value in trunk.items()} | {f"head.{name}": value for name, value in head.items()}


def run_folder(recipe: AnyRecipe, runs: Path, name: str = "", changes: Mapping[str, Any] | None = None) -> Path:
    """Returns the folder in which `attnserve train` ran a recipe.

    The run of a video classifier may also have the pairwise function in its name, as those of a queue do.

    Args:
        recipe: with its changes.
        runs: folder of all runs.
        name: name or path of the recipe, as given to `attnserve train`; empty for that of the model.
        changes: changed keys of the recipe.
    """
    name, changes = name or recipe.model_id, changes or {}
    folder = runs / folder_name(name, changes)
    if isinstance(recipe, VideoRecipe) and not folder.exists():
        return runs / folder_name(name, {**changes, "model.pairwise": recipe.model["pairwise"]})
    return folder


def trained_in_bundle(folder: Path) -> Trained:
    """Reads the model that a bundle was made from.

    Raises:
        FileNotFoundError: there is no bundle, or it has no training record.
        ExportError: its graphs do not hold all weights, which happens with very small tensors.
    """
    recipe, summary = read_training(folder)
    weights = {name: torch.tensor(value) for name, value in stored_parameters(folder, read_manifest(folder)).items()}
    try:
        restored = ARCHITECTURES[recipe.architecture].graphs.restore(weights)
    except KeyError as error:
        raise ExportError(f"the graphs in {folder} do not hold {error}: export it from its training run") from error
    return Trained(recipe, restored, _tokenizer(recipe, folder), summary)


def _tokenizer(recipe: AnyRecipe, folder: Path) -> bytes:
    return b"" if isinstance(recipe, VisionRecipe) else (folder / TOKENIZER_FILE).read_bytes()


def read_training(folder: Path) -> tuple[AnyRecipe, dict[str, Any]]:
    """Returns the recipe and the summary that a bundle keeps.

    Raises:
        FileNotFoundError: it has no training record.
    """
    record = folder / TRAINING_FILE
    if not record.is_file():
        raise FileNotFoundError(f"no bundle with a {TRAINING_FILE} in {folder}")
    content = json.loads(record.read_text(encoding="utf-8"))
    return recipe_from(content["recipe"]), content["summary"]


def stored_parameters(folder: Path, manifest: manifest_pb2.Manifest) -> dict[str, Array]:
    """Returns the parameters and buffers of the fp32 graphs, by their names in the module or, else, in the graph."""
    variant = next(each for each in manifest.variants if each.device == manifest_pb2.DEVICE_CPU and each.name == "fp32")
    found: dict[str, Array] = {}
    graphs = (variant.passes[0].graph,) if variant.passes else (variant.encode, variant.steps[0].graph)
    for name in (each.file for each in graphs):
        for parameter, value in _constants(onnx.load(folder / name)).items():
            is_matrix = parameter.endswith(TRANSPOSED)
            found[parameter.removeprefix(PREFIX).removesuffix(TRANSPOSED)] = value.T if is_matrix else value
    return {name: value for name, value in found.items() if not name.endswith(PACKED)}


def _constants(model: onnx.ModelProto) -> dict[str, Array]:
    """Returns initializers under the names that the graph's nodes use, after their Cast (16 and 8 bits) and Mul (8 bits)."""
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]].astype(np.float32)
        elif node.op_type == "Mul" and node.input[1].endswith(SCALES) and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]] * stored[node.input[1]]
    return stored
