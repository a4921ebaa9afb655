# SPDX-License-Identifier: Apache-2.0
"""A recipe: all settings of a training run, read from TOML; unknown keys are an error."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from attnserve_export.recipe.base import RecipeError, Section, shipped_file
from attnserve_export.recipe.text import CaptionRecipe, Recipe
from attnserve_export.recipe.vision import ClassificationRecipe, GenerationRecipe, SegmentationRecipe, VideoRecipe, VisionRecipe

__all__ = [
    "AnyRecipe",
    "CaptionRecipe",
    "ClassificationRecipe",
    "GenerationRecipe",
    "Recipe",
    "RecipeError",
    "Section",
    "SegmentationRecipe",
    "SequenceRecipe",
    "VideoRecipe",
    "VisionRecipe",
]
__all__ += ["CONFIGS", "load_recipe", "recipe_from", "sequence_recipe"]

CONFIGS = Path(__file__).parents[1] / "configs"

SequenceRecipe = Recipe | CaptionRecipe
AnyRecipe = SequenceRecipe | ClassificationRecipe | SegmentationRecipe | VideoRecipe | GenerationRecipe

_BY_TASK: dict[str, type[AnyRecipe]] = {
    "translation": Recipe,
    "caption": CaptionRecipe,
    "classification": ClassificationRecipe,
    "segmentation": SegmentationRecipe,
    "generation": GenerationRecipe,
    "video": VideoRecipe,
}


def recipe_from(content: Mapping[str, Any]) -> AnyRecipe:
    """Converts a parsed recipe; its key ``task`` names the kind (default: translation).

    Raises:
        msgspec.ValidationError: a key is missing, unknown or of the wrong type.
    """
    task = content.get("task", "translation")
    if task not in _BY_TASK:
        raise msgspec.ValidationError(f"task must be one of {', '.join(sorted(_BY_TASK))}, not {task!r}")
    return msgspec.convert(content, _BY_TASK[task])


def load_recipe(name_or_path: str, changes: Mapping[str, Any] | None = None) -> AnyRecipe:
    """Reads a recipe by the name of a shipped one (``transformer-en-de``) or by the path of a TOML file.

    Args:
        name_or_path: a path if it ends in ``.toml``.
        changes: other values for some keys, as dotted names (``{"schedule.epochs": 12}``).

    Raises:
        RecipeError: no such file, or a key that is missing, unknown or of the wrong type.
    """
    path = shipped_file(name_or_path, CONFIGS, "recipe")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        for key, value in (changes or {}).items():
            _change(content, key, value)
        return recipe_from(content)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise RecipeError(f"{path}: {error}") from error


def _change(content: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise RecipeError(f"cannot set {key}: {table} is not a table")
    content[last] = value


def sequence_recipe(recipe: AnyRecipe) -> SequenceRecipe:
    """Returns the recipe if it is of a model that generates text.

    Raises:
        RecipeError: the model does not generate text.
    """
    if isinstance(recipe, VisionRecipe):
        raise RecipeError(f"{recipe.model_id} generates no text")
    return recipe
