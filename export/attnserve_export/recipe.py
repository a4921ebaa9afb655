# SPDX-License-Identifier: Apache-2.0
"""A recipe: everything that a training run depends on, read from TOML, with unknown keys refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

CONFIGS = Path(__file__).parent / "configs"


class RecipeError(Exception):
    """A recipe that is not there, or says what no one reads."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all tables of a recipe."""


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
    """The last epochs: the learning rate goes down to 0 in a straight line, and there is less dropout."""

    first_epoch: int
    """Counted from 1."""
    dropout: float


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


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by the name of a shipped one (``transformer-en-de``) or by the path of a TOML file.

    Raises:
        RecipeError: no such file, or a key that is missing, unknown or of the wrong type.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = CONFIGS / f"{name_or_path}.toml"
    if not path.exists():
        shipped = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.toml")))
        raise RecipeError(f"no recipe {name_or_path!r}: give the path of a .toml file, or one of {shipped}")
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Recipe)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise RecipeError(f"{path}: {error}") from error
