# SPDX-License-Identifier: Apache-2.0
"""Recipes of the models that write text: translation and captions."""

from __future__ import annotations

from typing import Any, Literal

from attnserve_export.recipe.base import Section


class Data(Section, frozen=True):
    """Which data set, which languages, and the longest sentence that is trained on, in pieces."""

    set: str
    source_language: str
    target_language: str
    max_pieces: int


class Tokenizer(Section, frozen=True):
    """SentencePiece, trained on the training split."""

    vocab_size: int
    model_type: str
    sampling_alpha: float
    sampled_share: float


class Optimizer(Section, frozen=True):
    """Adam, and the inverse square root schedule given by its peak."""

    peak_learning_rate: float
    warmup_updates: int
    beta2: float
    weight_decay: float
    label_smoothing: float
    clip_norm: float


class Schedule(Section, frozen=True):
    """How long, in which portions, and what is averaged at the end."""

    epochs: int
    batch_tokens: int
    checkpoint_seconds: float
    average_last: list[int]


class Annealing(Section, frozen=True):
    """The last epochs: learning rate and dropout go down to 0 in a straight line, the latter from epoch to epoch."""

    first_epoch: int
    """Counted from 1."""
    dropout: float
    """Of the first of them."""


class Distillation(Section, frozen=True):
    """Sequence-level knowledge distillation (Kim & Rush 2016): a share of the targets are what a teacher makes of the sources."""

    teacher: str
    """Model id."""
    first_epoch: int
    """Counted from 1."""
    share: float


class Recipe(Section, frozen=True):
    """One model's training. ``model`` holds the sizes that the architecture's own config takes."""

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
    """Which photos and captions, how many are held back to select by, and how often each photo is cut out anew."""

    set: str
    language: str
    max_words: int
    held_back: int
    """Photos of the training split."""
    views: int
    """Of each photo: as it is, mirrored, and what else there is cut out at random."""


class Words(Section, frozen=True):
    """A vocabulary of the most frequent words of the captions that are trained on, special symbols counted."""

    vocab_size: int


class CaptionOptimizer(Section, frozen=True):
    """AdamW; its rate rises in a straight line to its peak, and falls from there along half a cosine to 0."""

    peak_learning_rate: float
    warmup_updates: int
    weight_decay: float
    label_smoothing: float
    clip_norm: float


class CaptionSchedule(Section, frozen=True):
    """How long, in which portions, and how wide the beam is that decides which epoch is kept."""

    epochs: int
    batch_captions: int
    checkpoint_seconds: float
    beam_size: int


class AttentionLoss(Section, frozen=True):
    """What is added to the loss for the attention's sake (Xu et al. 2015).

    ``doubly_stochastic`` is lambda of equation 14. The others are of section 4.1, for hard attention alone: lambda_r, lambda_e, and
    how much of the baseline a batch leaves as it is.
    """

    doubly_stochastic: float
    reward: float = 1.0
    entropy: float = 0.002
    baseline_decay: float = 0.9


class CaptionRecipe(Section, frozen=True):
    """One captioning model's training. ``model`` holds the sizes that the architecture's own config takes."""

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
