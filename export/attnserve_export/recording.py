# SPDX-License-Identifier: Apache-2.0
"""Writes what `attnserve evaluate` measured through a server into a bundle: its manifest, its card, its record of the training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_export.bundle_writer import read_manifest, write_manifest
from attnserve_export.exporter import ExportError
from attnserve_export.model_card import model_card
from attnserve_export.parity import EXACT
from attnserve_export.trained import TRAINING_FILE, read_training, training_file

MAX_LOSS = 0.3
"""Of a variant of lower precision against fp32, in bleu_lc."""
ALIGNMENT = "alignment"
"""Where the summary of a training keeps which layers and heads align best."""


def record(folder: Path, evaluation: dict[str, Any]) -> Path:
    """Writes an evaluation into a bundle.

    Args:
        folder: the bundle's.
        evaluation: the JSON object that `attnserve evaluate translation`, `lengths` or `alignment` printed, of a split of the data.

    Returns:
        The bundle's folder.

    Raises:
        ExportError: the evaluation is of another model, of other data or another decoding than a bundle reports, or a variant of
            lower precision loses too much against fp32; nothing is written then.
    """
    manifest = read_manifest(folder)
    recipe, summary = read_training(folder)
    record_kind: Callable[..., None] = (
        _record_lengths if "counts" in evaluation else _record_alignment if "agreement" in evaluation else _record_translation
    )
    record_kind(manifest, summary, evaluation, recipe.data.set)
    order = [each.name for each in manifest.variants]
    figures = sorted(manifest.quality, key=lambda each: (each.command, order.index(each.variant)))  # else as they were measured
    del manifest.quality[:]
    manifest.quality.extend(figures)
    (folder / TRAINING_FILE).write_bytes(training_file(recipe, summary))
    (folder / "MODEL_CARD.md").write_text(model_card(manifest, recipe, summary), encoding="utf-8")
    write_manifest(folder, manifest)
    return folder


def choose_alignment(manifest: manifest_pb2.Manifest, summary: dict[str, Any]) -> None:
    """Makes the layers and heads that were measured to align best what a server returns as the alignment; all if none were."""
    if ALIGNMENT in summary:
        best = summary[ALIGNMENT]["best"]
        manifest.attention.mean_layers[:] = best["layers"]
        manifest.attention.mean_heads[:] = best["heads"]


def _record_translation(manifest: manifest_pb2.Manifest, _: dict[str, Any], evaluation: dict[str, Any], data: str) -> None:
    if not evaluation["split"] or evaluation["length_penalty"] is not None:
        raise ExportError("only what is measured with --data, and with the default length penalty, is recorded")
    _check_model(manifest, evaluation["model"])
    split = evaluation["split"]
    command = _command("translation", f"--model {manifest.model_id}", split, f"--beam-size {evaluation['beam_size'] or 1}")
    found = {metric: evaluation[metric] for metric in ("bleu", "bleu_lc", "chrf")}
    kept = _others(manifest, command, evaluation["variant"])
    common = {"dataset": f"{data} {split}", "command": command, "variant": evaluation["variant"]}
    kept += [manifest_pb2.Quality(metric=metric, value=round(value, 2), **common) for metric, value in found.items()]
    _refuse_loss(kept)
    _replace(manifest, kept)


def _record_lengths(manifest: manifest_pb2.Manifest, _: dict[str, Any], evaluation: dict[str, Any], data: str) -> None:
    found = next((each for each in evaluation["models"] if each["model"] == manifest.model_id), None)
    if found is None:
        raise ExportError(f"the evaluation is not of {manifest.model_id}")
    split, beam_size = evaluation["split"], evaluation["beam_size"]
    command = _command("lengths", "", split, f"--beam-size {beam_size}")
    kept = _others(manifest, command, found["variant"])
    common = {"metric": "bleu_lc", "dataset": f"{data} {split}", "command": command, "variant": found["variant"]}
    for words, value in zip(evaluation["words"], found["by_length"], strict=True):
        kept.append(manifest_pb2.Quality(value=value, part=f"sources of {words} words", **common))
    _replace(manifest, kept)


def _record_alignment(manifest: manifest_pb2.Manifest, summary: dict[str, Any], evaluation: dict[str, Any], _: str) -> None:
    _check_model(manifest, evaluation["model"])
    summary[ALIGNMENT] = {
        **evaluation,
        "command": _command("alignment", f"--model {manifest.model_id} --against {evaluation['against']}", evaluation["split"], ""),
    }
    choose_alignment(manifest, summary)


def _command(name: str, models: str, split: str, options: str) -> str:
    parts = [f"attnserve evaluate {name} --data DIR", models, f"--split {split}", options]
    return " ".join(part for part in parts if part)


def _check_model(manifest: manifest_pb2.Manifest, model: str) -> None:
    if model != manifest.model_id:
        raise ExportError(f"the evaluation is of {model}, not of {manifest.model_id}")


def _others(manifest: manifest_pb2.Manifest, command: str, variant: str) -> list[manifest_pb2.Quality]:
    """What is not replaced by new figures of a command for a variant."""
    return [each for each in manifest.quality if (each.variant, each.command) != (variant, command)]


def _replace(manifest: manifest_pb2.Manifest, figures: list[manifest_pb2.Quality]) -> None:
    del manifest.quality[:]
    manifest.quality.extend(figures)


def _refuse_loss(figures: list[manifest_pb2.Quality]) -> None:
    whole = [each for each in figures if each.metric == "bleu_lc" and not each.part]
    exact = {each.command: each.value for each in whole if each.variant == EXACT}
    for each in whole:
        loss = exact.get(each.command, 0.0) - each.value
        if loss > MAX_LOSS:
            raise ExportError(f"{each.variant} loses {loss:.2f} bleu_lc on {each.dataset} (allowed: {MAX_LOSS})")
