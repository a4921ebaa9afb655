# SPDX-License-Identifier: Apache-2.0
"""Recipes of the models that generate text: translation and captions."""

from __future__ import annotations

from typing import Any, Literal

from attnserve_export.recipe.base import Section


class Data(Section, frozen=True):
    """The data set, the languages, and the maximum length of a training sentence in pieces."""

    set: str
    source_language: str
    target_language: str
    max_pieces: int


class Tokenizer(Section, frozen=True):
    """SentencePiece settings; the tokenizer is trained on the training split."""

    vocab_size: int
    model_type: str
    sampling_alpha: float
    sampled_share: float


class Optimizer(Section, frozen=True):
    """Adam with the inverse square root schedule (Vaswani et al. 2017, section 5.3), given by its peak."""

    peak_learning_rate: float
    warmup_updates: int
    beta2: float
    weight_decay: float
    label_smoothing: float
    clip_norm: float


class Schedule(Section, frozen=True):
    """Epochs, batch size, checkpoint interval, and the numbers of last epochs to average."""

    epochs: int
    batch_tokens: int
    checkpoint_seconds: float
    average_last: list[int]


class Annealing(Section, frozen=True):
    """The last epochs: learning rate and dropout fall linearly to 0; the dropout changes at each epoch."""

    first_epoch: int
    """Counted from 1."""
    dropout: float
    """Rate in the first of these epochs."""


class Distillation(Section, frozen=True):
    """Sequence-level knowledge distillation (Kim & Rush 2016): a share of the targets are a teacher's translations."""

    teacher: str
    """Model id."""
    first_epoch: int
    """Counted from 1."""
    share: float


class Recipe(Section, frozen=True):
    """One model's training. ``model`` holds the sizes of the architecture's config."""

    model_id: str
    architecture: str
    seed: int
    data: Data
    tokenizer: Tokenizer
    model: dict[str, Any]
    optimizer: Optimizer
    schedule: Schedule
    annealing: Annealing | None = None
    distillation: Distillation | None = None

    def __post_init__(self) -> None:
        annealing = self.annealing
        if annealing is not None and not 1 <= annealing.first_epoch <= self.schedule.epochs:
            raise ValueError(f"annealing.first_epoch must be from 1 to the {self.schedule.epochs} epochs of the schedule")
        if annealing is not None and not 0 <= annealing.dropout < 1:
            raise ValueError("annealing.dropout must be at least 0 and below 1")
        if self.distillation is not None and not 0 < self.distillation.share <= 1:
            raise ValueError("distillation.share must be above 0 and at most 1")


class CaptionData(Section, frozen=True):
    """The photos and captions, the number held back for selection, and the number of views of each photo."""

    set: str
    language: str
    max_words: int
    held_back: int
    """Number of photos of the training split."""
    views: int
    """Number for each photo: unchanged, mirrored, and random crops."""


class Words(Section, frozen=True):
    """A vocabulary of the most frequent words of the training captions; its size includes the special symbols."""

    vocab_size: int


class CaptionOptimizer(Section, frozen=True):
    """AdamW; the rate rises linearly to its peak, and falls to 0 along half a cosine."""

    peak_learning_rate: float
    warmup_updates: int
    weight_decay: float
    label_smoothing: float
    clip_norm: float


class CaptionSchedule(Section, frozen=True):
    """Epochs, batch size, checkpoint interval, and the beam size by which the kept epoch is selected."""

    epochs: int
    batch_captions: int
    checkpoint_seconds: float
    beam_size: int


class AttentionLoss(Section, frozen=True):
    """Additional loss terms of the attention (Xu et al. 2015).

    ``doubly_stochastic`` is lambda of equation 14. The others are of section 4.1, for hard attention only: lambda_r, lambda_e, and
    the decay of the baseline at each batch.
    """

    doubly_stochastic: float
    reward: float = 1.0
    entropy: float = 0.002
    baseline_decay: float = 0.9


class CaptionRecipe(Section, frozen=True):
    """One captioning model's training. ``model`` holds the sizes of the architecture's config."""

    task: Literal["caption"]
    model_id: str
    architecture: str
    seed: int
    data: CaptionData
    words: Words
    model: dict[str, Any]
    optimizer: CaptionOptimizer
    schedule: CaptionSchedule
    attention: AttentionLoss
