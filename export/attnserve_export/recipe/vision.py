# SPDX-License-Identifier: Apache-2.0
"""Recipes of the models that read or make pictures in one pass: segmentation, classification of images and clips, generation."""

from __future__ import annotations

from typing import Any, Literal

from attnserve_export.recipe.base import Section


class Schedule(Section, frozen=True):
    """How long, in which portions, and how often the run is saved."""

    epochs: int
    batch: int
    """Examples of an update."""
    checkpoint_seconds: float
    """At most so much work is lost when the run is killed."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise ValueError("schedule.epochs and schedule.batch must be at least 1")


class Optimizer(Section, frozen=True):
    """The learning rate rises linearly to its peak during the warm-up and falls to 0 along half a cosine."""

    peak_learning_rate: float
    warmup_epochs: float
    weight_decay: float


class VisionRecipe(Section, frozen=True):
    """What the recipes of this module have in common. ``model`` holds the sizes that the architecture's own config takes."""

    model_id: str
    architecture: str
    seed: int
    model: dict[str, Any]
    schedule: Schedule


class ClassificationData(Section, frozen=True):
    """The images, the share that selection uses, and the share of training images that are altered."""

    set: str
    held_back: int
    """Images of the training split that are not trained on; the epoch is selected by them."""
    altered: float
    """Probability that a training image is blurred, rescaled, recoloured or recompressed."""


class ClassificationRecipe(VisionRecipe, frozen=True, kw_only=True):
    """One image classifier's training, by SGD with Nesterov momentum of 0.9."""

    task: Literal["classification"]
    data: ClassificationData
    optimizer: Optimizer
    label_smoothing: float


class VideoData(Section, frozen=True):
    """Which clips are trained on, and which are held back to select by."""

    set: str
    fold: int
    """From 0: the fold of train and val together that is tested, in a cross-validation. -1: train is trained on, val is tested."""
    folds: int
    inner_folds: int
    """Of what is trained on: each is held back once to select the epoch and the pairwise function by."""
    views: int
    """Of each clip: as it is, mirrored, and others altered at random."""

    def __post_init__(self) -> None:
        if not -1 <= self.fold < self.folds:
            raise ValueError(f"data.fold must be from 0 to {self.folds - 1}, or -1")
        if self.inner_folds < 2 or self.views < 1:
            raise ValueError("data.inner_folds must be at least 2 and data.views at least 1")


class VideoRecipe(VisionRecipe, frozen=True, kw_only=True):
    """One classifier of clips, trained by AdamW on cached features."""

    task: Literal["video"]
    data: VideoData
    optimizer: Optimizer
    label_smoothing: float
