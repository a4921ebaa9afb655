# SPDX-License-Identifier: Apache-2.0
"""Makes a checked bundle from a finished training run or from a bundle: `attnserve export ID`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import onnx
import sentencepiece
import torch
from rich.console import Console
from torch import nn

from attnserve.v1 import manifest_pb2
from attnserve_export import eight_bits
from attnserve_export.bundle_writer import read_manifest, write_bundle, write_manifest
from attnserve_export.exporter import ExportError, export_graph
from attnserve_export.generation_checks import add_golden_images
from attnserve_export.golden import add_golden_answers
from attnserve_export.graphs.parts import name_parts
from attnserve_export.int8_variant import add_int8_variant
from attnserve_export.layers.folded import fold_norms, has_norms
from attnserve_export.models.interface import TranslationModel
from attnserve_export.parity import check_parity
from attnserve_export.parity_sources import Sources
from attnserve_export.pass_golden import add_golden_passes
from attnserve_export.pass_tasks import pass_task_of
from attnserve_export.recipe import AnyRecipe, GenerationRecipe, VisionRecipe, sequence_recipe
from attnserve_export.recording import choose_alignment
from attnserve_export.registry import ARCHITECTURES, MAX_TOKENS, build_model
from attnserve_export.tasks import task_of
from attnserve_export.trained import TOKENIZER_FILE, TRAINING_FILE, Trained, trained_in_bundle, training_file


def stored_model(recipe: AnyRecipe, weights: dict[str, torch.Tensor], vocab_size: int) -> nn.Module:
    """Builds the module with its weights rounded to the number of bits that the bundle stores. Buffers are not rounded.

    Args:
        recipe: of the model.
        weights: as trained, or as a bundle stores them: with batch normalisations folded into the convolutions.
        vocab_size: size of the vocabulary, or the number of classes.

    Raises:
        ExportError: a parameter is missing.
    """
    architecture = ARCHITECTURES[recipe.architecture]
    model = build_model(recipe.architecture, vocab_size, {**recipe.model, **architecture.bundle_sizes})
    if has_norms(weights):
        model.load_state_dict(weights)
    fold_norms(model, architecture.norms, architecture.leading_norms)
    architecture.fold(model)
    if has_norms(weights):
        weights = model.state_dict()
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(weights))
    if missing:
        raise ExportError(f"{recipe.model_id}: the weights lack {', '.join(missing)}")
    bits = architecture.stored_bits
    model.load_state_dict({name: _stored(weights[name], bits) for name in wanted})
    return model.eval().requires_grad_(False)


def _stored(weight: torch.Tensor, bits: int) -> torch.Tensor:
    if bits == 8 and weight.dim() >= 2:
        return torch.from_numpy(eight_bits.rounded(weight.numpy()))
    return weight.half().float()


def described(recipe: AnyRecipe, model: nn.Module) -> manifest_pb2.Manifest:
    """Returns the part of the manifest that depends on the architecture, without the variants."""
    graphs = ARCHITECTURES[recipe.architecture].graphs
    task = pass_task_of(recipe) if isinstance(recipe, VisionRecipe) else task_of(recipe)
    return manifest_pb2.Manifest(
        architecture=recipe.architecture,
        paper=graphs.paper,
        description=task.description,
        states=graphs.states(model, MAX_TOKENS, MAX_TOKENS),
        attention=graphs.attention(model) if graphs.attention else None,
        single_pass=graphs.single_pass(model) if graphs.single_pass else None,
    )


def traced(recipe: AnyRecipe, model: nn.Module, manifest: manifest_pb2.Manifest) -> dict[str, onnx.ModelProto]:
    """Adds the architecture's variants to the manifest, and returns their graphs by file name."""
    console, architecture = Console(stderr=True), ARCHITECTURES[recipe.architecture].graphs
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    graphs: dict[str, onnx.ModelProto] = {}
    for variant in architecture.variants(model, list(manifest.states)):
        manifest.variants.append(variant.describe())
        for spec in variant.graphs:
            if spec.file not in graphs:  # variants may share a graph
                console.print(f"tracing {spec.file}")
                graphs[spec.file] = name_parts(export_graph(spec), architecture.parts)
    return graphs


def export_bundle(trained: Trained, data_root: Path, models: Path, version: str = "1") -> Path:
    """Exports a trained model to ``models/<id>/<version>``, and checks it.

    Raises:
        ExportError: the parity check fails; the destination is unchanged.
        FileNotFoundError: the data sets are missing.
    """
    if isinstance(trained.recipe, GenerationRecipe):
        from attnserve_export.generation_bundle import export_generator  # imports this module

        return export_generator(trained, data_root, models, version)
    if isinstance(trained.recipe, VisionRecipe):
        from attnserve_export.pass_bundles import export_pass_bundle  # imports this module

        return export_pass_bundle(trained, data_root, models, version)
    recipe, weights = sequence_recipe(trained.recipe), trained.weights
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=trained.tokenizer)
    model, task = stored_model(recipe, weights, tokenizer.get_piece_size()), task_of(recipe)
    manifest = described(recipe, model)
    choose_alignment(manifest, trained.summary)
    manifest.format_version, manifest.model_id, manifest.version = 1, recipe.model_id, version
    task.describe(manifest, tokenizer.get_piece_size())
    graphs = traced(recipe, model, manifest)
    if any(step.block_rows for variant in manifest.variants for step in variant.steps):
        manifest.format_version = 2
        manifest.requires.append("blocked_steps")
    add_int8_variant(manifest, graphs, ARCHITECTURES[recipe.architecture].graphs.is_within_one)
    sources, golden = task.parity_sources(data_root, tokenizer), task.golden_sources(tokenizer)
    return write_checked(
        models / recipe.model_id / version,
        manifest,
        graphs,
        {TOKENIZER_FILE: trained.tokenizer, TRAINING_FILE: training_file(recipe, trained.summary)},
        lambda folder, full: complete(folder, full, cast(TranslationModel, model), sources, golden),
        lambda full: task.card(full, trained.summary),
    )


def complete(folder: Path, manifest: manifest_pb2.Manifest, model: TranslationModel, sources: Sources, golden: Sources) -> None:
    """Adds the parity report to the manifest of a written bundle, and golden answers where there are enough.

    A model that was hardly trained, or one of another language, may have too few: it is served without, and a warning is printed.

    Raises:
        ExportError: parity does not hold.
    """
    manifest.parity.CopyFrom(check_parity(folder, manifest, model, sources))
    try:
        add_golden_answers(folder, manifest, model, golden)
    except ExportError as error:
        Console(stderr=True).print(f"warning: {error}; workers will compare none", style="yellow")


def renew_golden_answers(folder: Path) -> Path:
    """Writes golden answers into a bundle that is there; nothing else of it changes but its manifest.

    Args:
        folder: the bundle's.

    Returns:
        The bundle's folder.

    Raises:
        ExportError: too few inputs have an answer to compare with; nothing is written then.
        FileNotFoundError: there is no bundle, or it does not say how it was trained.
    """
    trained, manifest = trained_in_bundle(folder), read_manifest(folder)
    if isinstance(trained.recipe, VisionRecipe):
        model = stored_model(trained.recipe, trained.weights, len(manifest.single_pass.labels))
        add_golden = add_golden_images if isinstance(trained.recipe, GenerationRecipe) else add_golden_passes
        add_golden(folder, manifest, model)
        write_manifest(folder, manifest)
        return folder
    recipe = sequence_recipe(trained.recipe)
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=trained.tokenizer)
    model = stored_model(recipe, trained.weights, tokenizer.get_piece_size())
    add_golden_answers(folder, manifest, cast(TranslationModel, model), task_of(recipe).golden_sources(tokenizer))
    write_manifest(folder, manifest)
    return folder


def write_checked(
    destination: Path,
    manifest: manifest_pb2.Manifest,
    graphs: dict[str, onnx.ModelProto],
    files: dict[str, bytes],
    complete: Callable[[Path, manifest_pb2.Manifest], None],
    card: Callable[[manifest_pb2.Manifest], str],
) -> Path:
    """Writes a bundle to a temporary folder, checks it, and then replaces ``destination`` by it.

    Args:
        destination: ``<id>/<version>``.
        manifest: without parity report and files.
        graphs: models by file name.
        files: further files: name -> content.
        complete: compares the written bundle with its module, and adds the results to the manifest and the folder; raises
            ``ExportError`` if they disagree.
        card: makes the model card from the complete manifest.
    """
    with tempfile.TemporaryDirectory(dir=_made(destination.parent)) as temporary:
        folder = Path(temporary) / "bundle"
        licence = f"Weights: {manifest.data.terms}\nCode: Apache-2.0.\n".encode()
        full = write_bundle(folder, manifest, graphs, {**files, "LICENSE.txt": licence})
        complete(folder, full)
        (folder / "MODEL_CARD.md").write_text(card(full), encoding="utf-8")
        write_manifest(folder, full)
        if destination.exists():
            destination.rename(Path(temporary) / "old")
        folder.rename(destination)
    return destination


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
