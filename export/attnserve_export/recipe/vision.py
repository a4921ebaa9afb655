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


class SegmentationData(Section, frozen=True, kw_only=True):
    """The frames, the part that selection uses, and the views that are trained on."""

    set: str
    drive: str
    """The last ``held_back`` frames of this drive in the training split are not trained on; the epoch is selected by them."""
    held_back: int
    gap: int
    """Frames before them that are neither trained on nor selected by."""
    passes: int
    """Over the training frames in an epoch."""
    altered: float
    """Probability that a view is blurred, rescaled, recoloured or recompressed."""
    scale: tuple[float, float]
    """Limits of the factor by which a frame is enlarged before it is cut; with cached features at least 1."""
    crop: tuple[int, int]
    """Width and height of the views that are trained on, in pixels; not used with cached features."""
    cached_views: int = 0
    """0: the trunk is trained too. Otherwise it is not, and its outputs are computed once for so many views of each frame."""

    def __post_init__(self) -> None:
        if self.passes < 1 or self.held_back < 1 or self.gap < 0:
            raise ValueError("data.passes and data.held_back must be at least 1, and data.gap at least 0")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"data.scale must be two positive numbers in order, not {list(self.scale)}")
        if self.cached_views and self.scale[0] < 1:
            raise ValueError("data.scale must be at least 1 with data.cached_views: cached views are cut out of their frames")


class SegmentationOptimizer(Optimizer, frozen=True):
    """Of AdamW."""

    trunk_rate: float
    """Factor of the learning rate for the trunk."""
    clip_norm: float


class SegmentationRecipe(VisionRecipe, frozen=True, kw_only=True):
    """The training of one model that segments pictures."""

    task: Literal["segmentation"]
    data: SegmentationData
    optimizer: SegmentationOptimizer
    balance: float
    """The weight of a class in the loss is its share of the pixels to the power of ``-balance``: 0 weighs all pixels alike."""


class GenerationData(Section, frozen=True):
    """The images that the generator learns from."""

    set: str
    deblocked: bool
    """Whether the traces of the JPEG blocks are taken out of them."""


class GenerationOptimizer(Section, frozen=True):
    """Adam for both networks, each with a rate of its own (Heusel et al. 2017); both fall to 0 in a straight line at the end."""

    generator_rate: float
    discriminator_rate: float
    beta1: float
    beta2: float
    constant: float
    """Share of the run before the rates fall."""
    average_decay: float
    """Of the moving average of the generator's weights, for each update."""

    def __post_init__(self) -> None:
        if not 0 <= self.constant < 1 or not 0 <= self.average_decay < 1:
            raise ValueError("optimizer.constant and optimizer.average_decay must be at least 0 and below 1")


class GenerationRecipe(VisionRecipe, frozen=True, kw_only=True):
    """One class-conditional generator's training against a discriminator."""

    task: Literal["generation"]
    data: GenerationData
    optimizer: GenerationOptimizer
    precision: Literal["float32", "bfloat16"]
    """Of the convolutions and products in training; the weights are float32 in any case."""


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
