# SPDX-License-Identifier: Apache-2.0
"""Parts that all recipes share: the base of their tables, which reject unknown keys, and the error for an invalid recipe."""

from __future__ import annotations

from pathlib import Path

import msgspec


class RecipeError(Exception):
    """The recipe is missing, or a key is missing, unknown, or of the wrong type or value."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all tables of a recipe."""


def shipped_file(name_or_path: str, folder: Path, what: str) -> Path:
    """Returns the path if it ends in ``.toml``, else the shipped file of that name.

    Args:
        name_or_path: argument of a command.
        folder: the shipped files.
        what: noun for the error message, such as "recipe".

    Raises:
        RecipeError: there is no such file; the text lists the shipped ones.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = folder / f"{name_or_path}.toml"
    if not path.exists():
        shipped = ", ".join(sorted(file.stem for file in folder.glob("*.toml")))
        raise RecipeError(f"no {what} {name_or_path!r}: give the path of a .toml file, or one of {shipped}")
    return path
