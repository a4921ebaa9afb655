# SPDX-License-Identifier: Apache-2.0
"""Writes the output of `attnserve evaluate` into a bundle: its manifest, its card, and its training record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from attnserve.v1 import manifest_pb2
from attnserve_export.bundle_writer import read_manifest, write_manifest
from attnserve_export.evaluations import (
    Alignment,
    AnyEvaluation,
    Caption,
    Classification,
    ClassificationGain,
    Evaluation,
    Gain,
    Generation,
    GenerationGain,
    Lengths,
    Segmentation,
    SegmentationGain,
    Translation,
    Video,
    VideoGain,
    VideoSkew,
)
from attnserve_export.exporter import ExportError
from attnserve_export.parity import EXACT
from attnserve_export.pass_tasks import pass_task_of
from attnserve_export.recipe import AnyRecipe, VisionRecipe
from attnserve_export.tasks import task_of
from attnserve_export.trained import TRAINING_FILE, read_training, training_file

MAX_LOSS = 0.3
"""Largest loss of a variant of lower precision against fp32, in the task's first metric."""
TRANSLATION_METRICS, CAPTION_METRICS = ("bleu_lc", "bleu", "chrf"), ("bleu_4", "bleu_1")
MIOU, ACCURACY, AS_ASKED = "miou", "accuracy", "as_asked"
MAX_PASS_LOSS = 0.2
"""The same of a single-pass model, in percent."""
MAX_SAMPLE_LOSS = 1.0
"""The same of a generator: two variants draw the same samples, of which a judge finds some near two classes."""
ALIGNMENT, GAIN, SKEW = "alignment", "gain", "skew"
"""Keys of a training summary: the layers and heads with the best alignment; the comparison with the twins; encoded clips."""
_GAINS = {
    SegmentationGain: ("segmentation", "segmentation.gain"),
    ClassificationGain: ("classification", "classification.gain"),
    GenerationGain: ("generation", "generation.gain"),
    VideoGain: ("video_classification", "video.protocol"),
}
"""Task, and the module that compares."""


def record(folder: Path, text: bytes) -> Path:
    """Writes an evaluation into a bundle.

    Args:
        folder: the bundle.
        text: the JSON object that `attnserve evaluate` printed, or a command that compares paired trainings wrote.

    Returns:
        The bundle's folder.

    Raises:
        ExportError: the text is no evaluation; it is of another model, variant, part of the data or decoding than a bundle
            reports; or a variant of lower precision loses too much against fp32. Nothing is written then.
    """
    try:
        evaluation = msgspec.json.decode(text, type=AnyEvaluation)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ExportError(f"not an evaluation that can be recorded: {error}") from error
    if isinstance(evaluation, Evaluation | Generation):
        evaluation.check()
    manifest = read_manifest(folder)
    recipe, summary = read_training(folder)
    if isinstance(evaluation, Translation):
        _record_scores(manifest, evaluation, recipe.data.set, ("translation", TRANSLATION_METRICS))
    elif isinstance(evaluation, Caption):
        _record_scores(manifest, evaluation, recipe.data.set, ("caption", CAPTION_METRICS))
    elif isinstance(evaluation, Lengths):
        _record_lengths(manifest, evaluation, recipe.data.set)
    elif isinstance(evaluation, Alignment):
        _record_alignment(manifest, summary, evaluation)
    elif isinstance(evaluation, VideoSkew):
        _record_skew(manifest, summary, evaluation)
    elif isinstance(evaluation, Segmentation | Classification | Video):
        _record_pass_scores(manifest, evaluation, recipe.data.set)
    elif isinstance(evaluation, Generation):
        _record_samples(manifest, evaluation)
    else:
        _record_gain(manifest, summary, evaluation)
    order = [each.name for each in manifest.variants]
    figures = sorted(manifest.quality, key=lambda each: (each.command, order.index(each.variant)))  # stable: else as measured
    _replace(manifest, figures)
    (folder / TRAINING_FILE).write_bytes(training_file(recipe, summary))
    pictures = frozenset(path.name for path in folder.parent.parent.iterdir() if path.suffix in (".png", ".jpg"))
    (folder / "MODEL_CARD.md").write_text(card_of(recipe)(manifest, summary, pictures), encoding="utf-8")
    write_manifest(folder, manifest)
    return folder


def card_of(recipe: AnyRecipe) -> Callable[..., str]:
    """Returns the function that makes the card of a recipe's bundle."""
    return pass_task_of(recipe).card if isinstance(recipe, VisionRecipe) else task_of(recipe).card


def choose_alignment(manifest: manifest_pb2.Manifest, summary: dict[str, Any]) -> None:
    """Sets the measured best layers and heads as the alignment that a server returns; all layers and heads if not measured."""
    if ALIGNMENT in summary:
        best = summary[ALIGNMENT]["best"]
        manifest.attention.mean_layers[:] = best["layers"]
        manifest.attention.mean_heads[:] = best["heads"]


def _record_scores(
    manifest: manifest_pb2.Manifest, evaluation: Translation | Caption, data: str, measured: tuple[str, tuple[str, ...]]
) -> None:
    """Records the scores of a whole split; ``measured`` is the evaluation's name and its metrics."""
    if evaluation.length_penalty is not None:
        raise ExportError("only an evaluation with the default length penalty can be recorded")
    _check_model(manifest, evaluation.model, evaluation.variant)
    name, metrics = measured
    command = _command(name, f"--model {manifest.model_id}", evaluation.split, f"--beam-size {evaluation.beam_size or 1}")
    kept = _others(manifest, command, evaluation.variant)
    common = {"dataset": f"{data} {evaluation.split}", "command": command, "variant": evaluation.variant}
    for metric in sorted(metrics):
        kept.append(manifest_pb2.Quality(metric=metric, value=round(getattr(evaluation, metric), 2), **common))
    _refuse_loss(kept, metrics[0])
    _replace(manifest, kept)


def _record_pass_scores(manifest: manifest_pb2.Manifest, evaluation: Segmentation | Classification | Video, data: str) -> None:
    """Records the scores of a single-pass model on a whole split, with those of each class."""
    _check_model(manifest, evaluation.model, evaluation.variant)
    if isinstance(evaluation, Segmentation):
        name, metric, whole, of_class = "segmentation", MIOU, evaluation.miou, evaluation.class_iou
    else:
        name = "video" if isinstance(evaluation, Video) else "classification"
        metric, whole, of_class = ACCURACY, evaluation.accuracy, evaluation.class_accuracy
    command = _command(name, f"--model {manifest.model_id}", evaluation.split, "")
    kept = _others(manifest, command, evaluation.variant)
    common = {"metric": metric, "dataset": f"{data} {evaluation.split}", "command": command, "variant": evaluation.variant}
    kept.append(manifest_pb2.Quality(value=whole, **common))
    kept += [manifest_pb2.Quality(value=value, part=part, **common) for part, value in of_class.items() if value is not None]
    _refuse_loss(kept, metric, MAX_PASS_LOSS)
    _replace(manifest, kept)


def _record_samples(manifest: manifest_pb2.Manifest, evaluation: Generation) -> None:
    """Records the share of generated images that the judge classifies as asked, with that of each class."""
    _check_model(manifest, evaluation.model, evaluation.variant)
    command = f"attnserve evaluate generation --model {manifest.model_id} --judge {evaluation.judge}"
    kept = _others(manifest, command, evaluation.variant)
    data = f"{evaluation.samples:,} generated images"
    common = {"metric": AS_ASKED, "dataset": data, "command": command, "variant": evaluation.variant}
    kept.append(manifest_pb2.Quality(value=evaluation.as_asked, **common))
    kept += [manifest_pb2.Quality(value=value, part=part, **common) for part, value in evaluation.class_as_asked.items()]
    _refuse_loss(kept, AS_ASKED, MAX_SAMPLE_LOSS)
    _replace(manifest, kept)


def _record_gain(manifest: manifest_pb2.Manifest, summary: dict[str, Any], evaluation: Gain) -> None:
    task, module = _GAINS[type(evaluation)]
    if manifest.task != manifest_pb2.Task.Value(f"TASK_{task.upper()}"):
        raise ExportError(f"the comparison is of {task.replace('_', ' ')} models, {manifest.model_id} is not one")
    summary[GAIN] = {**msgspec.to_builtins(evaluation), "command": f"python -m attnserve_export.training.{module} --runs DIR"}


def _record_skew(manifest: manifest_pb2.Manifest, summary: dict[str, Any], evaluation: VideoSkew) -> None:
    _check_model(manifest, evaluation.model, evaluation.variant)
    command = _command("video-skew", f"--model {manifest.model_id}", evaluation.split, "")
    summary[SKEW] = {**msgspec.to_builtins(evaluation), "command": command}


def _record_lengths(manifest: manifest_pb2.Manifest, evaluation: Lengths, data: str) -> None:
    found = next((each for each in evaluation.models if each.model == manifest.model_id), None)
    if found is None:
        raise ExportError(f"the evaluation is not of {manifest.model_id}")
    _check_model(manifest, found.model, found.variant)
    command = _command("lengths", "", evaluation.split, f"--beam-size {evaluation.beam_size} --bins {evaluation.bins}")
    kept = [each for each in _others(manifest, command, found.variant) if not each.part or each.variant != found.variant]
    common = {"metric": "bleu_lc", "dataset": f"{data} {evaluation.split}", "command": command, "variant": found.variant}
    for words, value in zip(evaluation.words, found.by_length, strict=True):
        kept.append(manifest_pb2.Quality(value=value, part=f"sources of {words} words", **common))
    _replace(manifest, kept)


def _record_alignment(manifest: manifest_pb2.Manifest, summary: dict[str, Any], evaluation: Alignment) -> None:
    _check_model(manifest, evaluation.model, evaluation.variant)
    size = manifest.attention.num_layers, manifest.attention.num_heads
    if (len(evaluation.agreement), len(evaluation.agreement[0])) != size:
        raise ExportError(f"the evaluation is not of {size[0]} layers of {size[1]} heads")
    models = f"--model {manifest.model_id} --against {evaluation.against}"
    summary[ALIGNMENT] = {**msgspec.to_builtins(evaluation), "command": _command("alignment", models, evaluation.split, "")}
    choose_alignment(manifest, summary)


def _command(name: str, models: str, split: str | None, options: str) -> str:
    parts = [f"attnserve evaluate {name} --data DIR", models, f"--split {split}", options]
    return " ".join(part for part in parts if part)


def _check_model(manifest: manifest_pb2.Manifest, model: str, variant: str) -> None:
    if model != manifest.model_id:
        raise ExportError(f"the evaluation is of {model}, not of {manifest.model_id}")
    if variant not in {each.name for each in manifest.variants}:
        raise ExportError(f"{model} has no variant {variant}")


def _others(manifest: manifest_pb2.Manifest, command: str, variant: str) -> list[manifest_pb2.Quality]:
    """Returns the figures that are kept when a command is measured again for a variant."""
    return [each for each in manifest.quality if (each.variant, each.command) != (variant, command)]


def _replace(manifest: manifest_pb2.Manifest, figures: list[manifest_pb2.Quality]) -> None:
    del manifest.quality[:]
    manifest.quality.extend(figures)


def _refuse_loss(figures: list[manifest_pb2.Quality], metric: str, allowed: float = MAX_LOSS) -> None:
    whole = [each for each in figures if each.metric == metric and not each.part]
    exact = {each.command: each.value for each in whole if each.variant == EXACT}
    for each in whole:
        loss = exact.get(each.command, 0.0) - each.value
        if loss > allowed:
            raise ExportError(f"{each.variant} loses {loss:.2f} {metric} on {each.dataset} (allowed: {allowed})")
