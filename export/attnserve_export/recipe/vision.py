# SPDX-License-Identifier: Apache-2.0
"""Recipes of the single-pass models: segmentation, classification of images and clips, generation."""

from __future__ import annotations

from typing import Any, Literal

from attnserve_export.recipe.base import Section


class Schedule(Section, frozen=True):
    """Epochs, batch size, and checkpoint interval."""

    epochs: int
    batch: int
    """Examples of an update."""
    checkpoint_seconds: float
    """Interval between checkpoints: the maximum of work that is lost when the run is killed."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise ValueError("schedule.epochs and schedule.batch must be at least 1")


class Optimizer(Section, frozen=True):
    """The learning rate rises linearly to its peak during the warm-up and falls to 0 along half a cosine."""

    peak_learning_rate: float
    warmup_epochs: float
    weight_decay: float


class VisionRecipe(Section, frozen=True):
    """Keys that the recipes of this module share. ``model`` holds the sizes of the architecture's config."""

    model_id: str
    architecture: str
    seed: int
    model: dict[str, Any]
    schedule: Schedule


class ClassificationData(Section, frozen=True):
    """The images, the number held back for selection, and the share of altered training images."""

    set: str
    held_back: int
    """Number of images of the training split that are used to select the epoch, not for training."""
    altered: float
    """Probability that a training image is blurred, rescaled, recoloured or recompressed."""


class ClassificationRecipe(VisionRecipe, frozen=True, kw_only=True):
    """One image classifier's training, by SGD with Nesterov momentum of 0.9."""

    task: Literal["classification"]
    data: ClassificationData
    optimizer: Optimizer
    label_smoothing: float


class SegmentationData(Section, frozen=True, kw_only=True):
    """The frames, the part held back for selection, and the training views."""

    set: str
    drive: str
    """The last ``held_back`` frames of this drive in the training split are used to select the epoch, not for training."""
    held_back: int
    gap: int
    """Number of frames before them that are used for neither."""
    passes: int
    """Number of passes over the training frames in an epoch."""
    altered: float
    """Probability that a view is blurred, rescaled, recoloured or recompressed."""
    scale: tuple[float, float]
    """Range of the factor by which a frame is enlarged before it is cropped; at least 1 with cached features."""
    crop: tuple[int, int]
    """Width and height of the training views, in pixels; not used with cached features."""
    cached_views: int = 0
    """0: the trunk is trained too. Otherwise the trunk is frozen, and its outputs are computed once for this many views a frame."""

    def __post_init__(self) -> None:
        if self.passes < 1 or self.held_back < 1 or self.gap < 0:
            raise ValueError("data.passes and data.held_back must be at least 1, and data.gap at least 0")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"data.scale must be two positive numbers in order, not {list(self.scale)}")
        if self.cached_views and self.scale[0] < 1:
            raise ValueError("data.scale must be at least 1 with data.cached_views: cached views are cut out of their frames")


class SegmentationOptimizer(Optimizer, frozen=True):
    """AdamW settings."""

    trunk_rate: float
    """Factor of the learning rate for the trunk."""
    clip_norm: float


class SegmentationRecipe(VisionRecipe, frozen=True, kw_only=True):
    """The training of one segmentation model."""

    task: Literal["segmentation"]
    data: SegmentationData
    optimizer: SegmentationOptimizer
    balance: float
    """The weight of a class in the loss is its share of the pixels to the power of ``-balance``: 0 weighs all pixels alike."""


class GenerationData(Section, frozen=True):
    """The images that the generator learns from."""

    set: str
    deblocked: bool
    """Whether the block artefacts of JPEG compression are removed."""


class GenerationOptimizer(Section, frozen=True):
    """Adam for both networks, with separate rates (Heusel et al. 2017); both rates fall linearly to 0 at the end."""

    generator_rate: float
    discriminator_rate: float
    beta1: float
    beta2: float
    constant: float
    """Share of the run with constant rates."""
    average_decay: float
    """Decay of the moving average of the generator's weights, for each update."""

    def __post_init__(self) -> None:
        if not 0 <= self.constant < 1 or not 0 <= self.average_decay < 1:
            raise ValueError("optimizer.constant and optimizer.average_decay must be at least 0 and below 1")


class GenerationRecipe(VisionRecipe, frozen=True, kw_only=True):
    """One class-conditional generator's training against a discriminator."""

    task: Literal["generation"]
    data: GenerationData
    optimizer: GenerationOptimizer
    precision: Literal["float32", "bfloat16"]
    """Precision of the convolutions and products in training; the weights are always float32."""


class VideoData(Section, frozen=True):
    """The clips for training, and the clips held back for selection."""

    set: str
    fold: int
    """Index of the test fold of train and val together, in a cross-validation. -1: training on train, test on val."""
    folds: int
    inner_folds: int
    """Number of folds of the training clips; each is held back once to select the epoch and the pairwise function."""
    views: int
    """Number for each clip: unchanged, mirrored, and randomly altered ones."""

    def __post_init__(self) -> None:
        if not -1 <= self.fold < self.folds:
            raise ValueError(f"data.fold must be from 0 to {self.folds - 1}, or -1")
        if self.inner_folds < 2 or self.views < 1:
            raise ValueError("data.inner_folds must be at least 2 and data.views at least 1")


class VideoAdaptation(Section, frozen=True):
    """The second phase of a video classifier's training, in which encoded clips get the probabilities of their frames."""

    epochs: int
    peak_learning_rate: float
    consistency: float
    """Weight of the difference between the margins of a clip and of the clip through a video file, in the loss."""
    directions: int
    """Number of directions of the channels, those that encoding changes most, that the head no longer reads."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.consistency < 0 or not 0 <= self.directions < 80:
            raise ValueError(
                "adaptation.epochs must be at least 1, adaptation.consistency at least 0, adaptation.directions from 0 to 79"
            )


class VideoRecipe(VisionRecipe, frozen=True, kw_only=True):
    """One classifier of clips, trained by AdamW on cached features."""

    task: Literal["video"]
    data: VideoData
    optimizer: Optimizer
    label_smoothing: float
    adaptation: VideoAdaptation | None = None
    """None: the training ends with the selected epoch."""
