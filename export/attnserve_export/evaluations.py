# SPDX-License-Identifier: Apache-2.0
"""Outputs of `attnserve evaluate`, and of the commands that compare paired trainings, that can be written into a bundle.

An unknown field, such as a decode option that no bundle reports, is an error.
"""

from __future__ import annotations

import msgspec

from attnserve_export.exporter import ExportError


class Evaluation(msgspec.Struct, frozen=True, tag_field="evaluation", forbid_unknown_fields=True):
    """Fields of every evaluation."""

    split: str | None
    limit: int | None

    def check(self) -> None:
        """Raises ``ExportError`` if the evaluation does not cover a whole split."""
        if self.split is None or self.limit is not None:
            raise ExportError("only an evaluation with --data, over a whole split, can be recorded")


class Translation(Evaluation, frozen=True, tag="translation"):
    """Output of `attnserve evaluate translation`."""

    model: str
    variant: str
    beam_size: int | None
    length_penalty: float | None
    bleu: float
    bleu_lc: float
    chrf: float
    signature: str
    seconds: float
    tokens: int
    sentences: int


class Caption(Evaluation, frozen=True, tag="caption"):
    """Output of `attnserve evaluate caption`."""

    model: str
    variant: str
    beam_size: int | None
    length_penalty: float | None
    bleu_1: float
    bleu_4: float
    signature: str
    seconds: float
    tokens: int
    photos: int


class ScoresByLength(msgspec.Struct, frozen=True):
    """One model's scores, one for each group of lengths."""

    model: str
    variant: str
    bleu_lc: float
    by_length: list[float]


class Lengths(Evaluation, frozen=True, tag="lengths"):
    """Output of `attnserve evaluate lengths`."""

    beam_size: int
    bins: int
    sentences: int
    words: list[str]
    counts: list[int]
    models: list[ScoresByLength]


class Best(msgspec.Struct, frozen=True):
    """The layers and heads with the best alignment; an empty list means all."""

    layers: list[int]
    heads: list[int]
    agreement: float


class Alignment(Evaluation, frozen=True, tag="alignment"):
    """Output of `attnserve evaluate alignment`."""

    model: str
    variant: str
    against: str
    against_variant: str
    sentences: int
    words: int
    agreement: list[list[float]]
    agreement_of_layer_means: list[float]
    agreement_of_mean: float
    best: Best


class Segmentation(Evaluation, frozen=True, tag="segmentation"):
    """Output of `attnserve evaluate segmentation`; percentages."""

    model: str
    variant: str
    miou: float
    accuracy: float
    class_iou: dict[str, float | None]
    seconds: float
    images: int


class Classification(Evaluation, frozen=True, tag="classification"):
    """Output of `attnserve evaluate classification`; percentages, and numbers of images by true and by predicted class."""

    model: str
    variant: str
    accuracy: float
    class_accuracy: dict[str, float | None]
    confusion: list[list[int]]
    seconds: float
    images: int


class Video(Evaluation, frozen=True, tag="video"):
    """Output of `attnserve evaluate video`; percentages, and numbers of clips by true and by predicted class."""

    model: str
    variant: str
    accuracy: float
    class_accuracy: dict[str, float | None]
    confusion: list[list[int]]
    seconds: float
    clips: int


class Encoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers to encoded clips against those to their frames."""

    codec: str
    width: int
    height: int
    same_class: float
    """Percentage of the clips."""
    mean_difference: float
    largest_difference: float
    """Of a probability."""


class VideoSkew(Evaluation, frozen=True, tag="video_skew"):
    """Output of `attnserve evaluate video-skew`."""

    model: str
    variant: str
    clips: int
    encodings: list[Encoding]
    seconds: float


class SegmentationGain(msgspec.Struct, frozen=True, tag_field="evaluation", tag="segmentation_gain", forbid_unknown_fields=True):
    """Output of `python -m attnserve_export.training.segmentation.gain --output FILE`."""

    seeds: list[int]
    block_frames: int
    val_miou: dict[str, list[float]]
    held_back_miou: dict[str, list[float]]
    gains: dict[str, list[float]]
    """Pair -> mean and bounds of the interval."""


class ClassificationGain(
    msgspec.Struct, frozen=True, tag_field="evaluation", tag="classification_gain", forbid_unknown_fields=True
):
    """Output of `python -m attnserve_export.training.classification.gain --output FILE`."""

    model: str
    epochs: int
    val_accuracy: dict[str, float]
    val_accuracy_of_twin: dict[str, float]
    gain: list[float]
    """Mean and bounds of the interval."""


class VideoAccuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accuracy of one kind of model in a cross-validation; percentages."""

    accuracy: list[float]
    """Mean and bounds of the interval."""
    of_each_seed: list[float]
    of_val: float


class VideoGain(msgspec.Struct, frozen=True, tag_field="evaluation", tag="video_gain", forbid_unknown_fields=True):
    """Output of `python -m attnserve_export.training.video.protocol --output FILE`."""

    folds: int
    accuracies: dict[str, VideoAccuracy]
    gains: dict[str, list[float]]
    """Pair -> mean and bounds of the interval."""
    chosen: dict[str, int]
    """Pairwise function -> number of folds in which it was selected."""


class NearestImages(msgspec.Struct, frozen=True):
    """Distances to the nearest training image: root mean square, in grey levels."""

    median: float
    median_of_val: float
    share_nearer_than_1_percent_of_val: float


class JudgedSamples(msgspec.Struct, frozen=True):
    """Figures of one generator's samples."""

    updates: int | None
    epochs: int | None
    planned_epochs: int
    samples: int
    as_asked: float
    as_asked_by_class: dict[str, float]
    variance_of_real: float
    fid: float
    nearest_train_image: NearestImages


class Differences(msgspec.Struct, frozen=True):
    """Generator - twin: mean and bounds of the interval."""

    as_asked: list[float]
    fid: list[float]


class GenerationGain(msgspec.Struct, frozen=True, tag_field="evaluation", tag="generation_gain", forbid_unknown_fields=True):
    """Output of `python -m attnserve_export.training.generation.gain --output FILE`; shares, not percentages."""

    judge: str
    judge_accuracy: float
    generator: JudgedSamples
    twin: JudgedSamples | None = None
    difference: Differences | None = msgspec.field(name="generator - twin", default=None)


class Generation(msgspec.Struct, frozen=True, tag_field="evaluation", tag="generation", forbid_unknown_fields=True):
    """Output of `attnserve evaluate generation`; percentages."""

    model: str
    variant: str
    judge: str
    judge_variant: str
    seed: int
    samples: int
    as_asked: float
    class_as_asked: dict[str, float]
    seconds: float

    def check(self) -> None:
        """Raises ``ExportError`` if the evaluation has too few samples, or others than the command's own."""
        if self.samples < MIN_SAMPLES or self.seed != 0:
            raise ExportError(f"only an evaluation of at least {MIN_SAMPLES:,} samples of the seed 0 can be recorded")


MIN_SAMPLES = 2000
"""Least number of generated images in an evaluation that can be recorded."""
Gain = SegmentationGain | ClassificationGain | VideoGain | GenerationGain
AnyEvaluation = Translation | Caption | Lengths | Alignment | Segmentation | Classification | Video | VideoSkew | Generation | Gain
