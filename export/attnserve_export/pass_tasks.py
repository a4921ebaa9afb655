# SPDX-License-Identifier: Apache-2.0
"""The parts of a single-pass bundle that depend on its task: labels, data, held-out pictures, and the card."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from attnserve.v1 import manifest_pb2
from attnserve_export.classification_card import classification_card
from attnserve_export.generation_task import CIFAR10_TERMS, Generation
from attnserve_export.parity_sources import Array
from attnserve_export.pass_runner import PROBABILITIES, Feeds, Outputs
from attnserve_export.recipe import (
    ClassificationRecipe,
    GenerationRecipe,
    RecipeError,
    SegmentationRecipe,
    VideoRecipe,
    VisionRecipe,
)
from attnserve_export.segmentation_card import segmentation_card
from attnserve_export.training.classification.data import read_images
from attnserve_export.training.segmentation.data import CLASSES, VOID, read_frames
from attnserve_export.training.segmentation.scores import Confusion, class_ious, confusion, mean_iou
from attnserve_export.training.video.data import CLASSES as CLIP_CLASSES
from attnserve_export.training.video.data import read_clips
from attnserve_export.video_card import video_card

NUM_FRAMES, NUM_IMAGES, NUM_CLIPS = 6, 256, 16
"""Held-out pictures and clips that the parity check reads."""
METRIC = "score"
_BATCH = 50
Run = Callable[[Feeds], Outputs]
"""Inputs of a graph -> its outputs."""
COLOURS = {
    "Sky": 0x808080,
    "Building": 0x800000,
    "Pole": 0xC0C080,
    "Road": 0x804080,
    "Pavement": 0x3C28DE,
    "Tree": 0x808000,
    "SignSymbol": 0xC08080,
    "Fence": 0x404080,
    "Car": 0x400080,
    "Pedestrian": 0x404000,
    "Bicyclist": 0x0080C0,
}
"""Colours of CamVid's classes, as the data set's own label pictures have them."""


class PassTask(Protocol):
    """The parts of a bundle that depend on one task."""

    description: str
    """One sentence, for lists of models."""

    def describe(self, manifest: manifest_pb2.Manifest, classes: Sequence[str]) -> None:
        """Sets task, labels and data of the manifest."""
        ...

    def card(self, manifest: manifest_pb2.Manifest, summary: dict[str, Any], pictures: Set[str] = frozenset()) -> str:
        """Returns the model card; ``pictures``: file names in the repository."""
        ...


class PictureTask(PassTask, Protocol):
    """The same of a task whose models read a picture."""

    def held_out(self, data_root: Path) -> Sequence[Array]:
        """Returns pictures, or clips, that were not used for training: uint8 ([frames,] height, width, 3) each.

        Raises:
            FileNotFoundError: the data set is missing.
        """
        ...

    def scores(self, run: Run, data_root: Path) -> dict[str, Any]:
        """Returns the scores of a graph on val, in percent, under the keys ``METRIC``, "of_class" and "confusion".

        Raises:
            FileNotFoundError: the data set is missing.
        """
        ...

    def trained_score(self, summary: dict[str, Any]) -> float:
        """Returns the first of these scores as the training measured it."""
        ...


class Segmentation:
    """The task of models that find the class of each pixel."""

    description = "Finds the class of each pixel of a street scene: road, pavement, building, car, pedestrian and six others."

    def __init__(self, recipe: SegmentationRecipe) -> None:
        self._recipe = recipe

    def describe(self, manifest: manifest_pb2.Manifest, classes: Sequence[str]) -> None:
        """See :class:`PassTask`."""
        manifest.task = manifest_pb2.TASK_SEGMENTATION
        for index, name in enumerate(classes):
            manifest.single_pass.labels.add(name=name, colour=COLOURS.get(name, spread_colour(index)))
        terms = (
            "CamVid (Brostow, Fauqueur and Cipolla 2009): CC BY-NC, for non-commercial use. The trunk began as EfficientNet-Lite0 "
            "trained on ImageNet, Apache-2.0."
        )
        manifest.data.CopyFrom(manifest_pb2.Data(name="CamVid, training split (367 frames at 480 × 360, 11 classes)", terms=terms))

    def held_out(self, data_root: Path) -> Sequence[Array]:
        """Returns frames of val, evenly spread over its drives."""
        pixels = read_frames(data_root, "val").pixels
        return [pixels[index] for index in np.linspace(0, len(pixels) - 1, NUM_FRAMES).astype(int)]

    def scores(self, run: Run, data_root: Path) -> dict[str, Any]:
        """See :class:`PassTask`: mean IoU, IoU of each class, and shares of the pixels of each true class."""
        frames = read_frames(data_root, "val")
        size = np.array([frames.labels.shape[1:]], np.int64)
        total: Confusion = np.zeros((VOID, VOID), np.int64)
        for pixels, labels in zip(frames.pixels, frames.labels, strict=True):
            total += confusion(run({"image": pixels[None], "size": size})["classes"][0], labels)
        ious = class_ious(total)
        of_class = {name: round(float(iou), 2) for name, iou in zip(CLASSES, ious, strict=True) if not np.isnan(iou)}
        return {METRIC: round(mean_iou(total[None]), 2), "of_class": of_class, "confusion": shares_of_rows(total)}

    def trained_score(self, summary: dict[str, Any]) -> float:
        """See :class:`PassTask`."""
        return float(summary["val_miou"])

    def card(self, manifest: manifest_pb2.Manifest, summary: dict[str, Any], pictures: Set[str] = frozenset()) -> str:
        """See :class:`PassTask`."""
        return segmentation_card(manifest, self._recipe, summary, pictures)


class Classification:
    """The task of models that classify an image."""

    description = "Classifies small images: airplane, automobile, bird, cat, deer, dog, frog, horse, ship or truck."

    def __init__(self, recipe: ClassificationRecipe) -> None:
        self._recipe = recipe

    def describe(self, manifest: manifest_pb2.Manifest, classes: Sequence[str]) -> None:
        """See :class:`PassTask`."""
        manifest.task = manifest_pb2.TASK_CLASSIFICATION
        for index, name in enumerate(classes):
            manifest.single_pass.labels.add(name=name, colour=spread_colour(index))
        name = "CIFAR-10, training split (50,000 images of 32 × 32 pixels)"
        manifest.data.CopyFrom(manifest_pb2.Data(name=name, terms=CIFAR10_TERMS))

    def held_out(self, data_root: Path) -> Sequence[Array]:
        """Returns images of val."""
        return list(read_images(data_root, "val").pixels[:NUM_IMAGES])

    def scores(self, run: Run, data_root: Path) -> dict[str, Any]:
        """See :class:`PassTask`: accuracy, accuracy of each class, and shares of the images of each true class."""
        val = read_images(data_root, "val")
        count = len(val.classes)
        total: Confusion = np.zeros((count, count), np.int64)
        for start in range(0, len(val), _BATCH):
            part = slice(start, start + _BATCH)
            found = run({"image": val.pixels[part]})[PROBABILITIES].argmax(-1)
            np.add.at(total, (val.labels[part], found), 1)
        return _accuracies(total, val.classes)

    def trained_score(self, summary: dict[str, Any]) -> float:
        """See :class:`PassTask`."""
        return 100 * float(summary["val_accuracy"])

    def card(self, manifest: manifest_pb2.Manifest, summary: dict[str, Any], pictures: Set[str] = frozenset()) -> str:
        """See :class:`PassTask`."""
        return classification_card(manifest, self._recipe, summary, pictures)


class VideoClassification:
    """The task of models that classify a clip."""

    description = "Classifies clips of two seconds from surveillance cameras: noFight or fight. For demonstration only."

    def __init__(self, recipe: VideoRecipe) -> None:
        self._recipe = recipe

    def describe(self, manifest: manifest_pb2.Manifest, classes: Sequence[str]) -> None:
        """See :class:`PassTask`."""
        manifest.task = manifest_pb2.TASK_VIDEO_CLASSIFICATION
        manifest.requires.append("clip_input")
        for index, name in enumerate(classes):
            manifest.single_pass.labels.add(name=name, colour=spread_colour(index))
        terms = (
            "Surveillance camera fight data set (Akti, Tataroglu and Ekenel 2019): its repository is under the MIT licence; the "
            "clips are cut from public online videos, whose rights stay with their owners. The trunk is EfficientNet-Lite0 trained "
            "on ImageNet, Apache-2.0."
        )
        manifest.data.CopyFrom(
            manifest_pb2.Data(name="Fight clips, training split (174 clips of 28 sources, 2 classes)", terms=terms)
        )

    def held_out(self, data_root: Path) -> Sequence[Array]:
        """Returns clips of val."""
        return list(read_clips(data_root, "val").pixels[:NUM_CLIPS])

    def scores(self, run: Run, data_root: Path) -> dict[str, Any]:
        """See :class:`PassTask`: accuracy, accuracy of each class, and shares of the clips of each true class."""
        val, total = read_clips(data_root, "val"), np.zeros((2, 2), np.int64)
        for pixels, label in zip(val.pixels, val.labels, strict=True):
            total[label, run({"clip": pixels[None]})[PROBABILITIES][0].argmax()] += 1
        return _accuracies(total, CLIP_CLASSES)

    def trained_score(self, summary: dict[str, Any]) -> float:
        """See :class:`PassTask`."""
        return 100 * float(summary["test_accuracy"])

    def card(self, manifest: manifest_pb2.Manifest, summary: dict[str, Any], pictures: Set[str] = frozenset()) -> str:
        """See :class:`PassTask`."""
        return video_card(manifest, self._recipe, summary, pictures)


def _accuracies(total: Confusion, classes: Sequence[str]) -> dict[str, Any]:
    """Returns the scores of a classifier with this confusion matrix."""
    rows = shares_of_rows(total)
    of_class = {name: rows[index][index] for index, name in enumerate(classes)}
    return {METRIC: round(100 * float(np.trace(total) / total.sum()), 2), "of_class": of_class, "confusion": rows}


def shares_of_rows(matrix: Confusion) -> list[list[float]]:
    """Returns a confusion matrix as the percentage of each true class that got each class; a row without examples is 0."""
    return [[round(float(each), 1) for each in row] for row in 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)]


def spread_colour(index: int) -> int:
    """Returns a colour for a class without one: indices that differ by little have colours that differ by much."""
    return int(0x9E3779 * (index + 1)) & 0xFFFFFF


def pass_task_of(recipe: VisionRecipe) -> PassTask:
    """Returns the task of a recipe.

    Raises:
        RecipeError: such a model cannot be exported yet.
    """
    return Generation(recipe) if isinstance(recipe, GenerationRecipe) else picture_task_of(recipe)


def picture_task_of(recipe: VisionRecipe) -> PictureTask:
    """Returns the task of the recipe of a model that reads a picture.

    Raises:
        RecipeError: it is of no such model, or such a model cannot be exported yet.
    """
    if isinstance(recipe, SegmentationRecipe):
        return Segmentation(recipe)
    if isinstance(recipe, ClassificationRecipe):
        return Classification(recipe)
    if isinstance(recipe, VideoRecipe):
        return VideoClassification(recipe)
    raise RecipeError(f"{recipe.model_id}: the export of {recipe.architecture} models is not supported by this version")
