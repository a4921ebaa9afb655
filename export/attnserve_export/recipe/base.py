# SPDX-License-Identifier: Apache-2.0
"""What all recipes have in common: tables that refuse unknown keys, and the error that says what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import msgspec


class RecipeError(Exception):
    """The recipe is missing, or a key is missing, unknown, or of the wrong type or value."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all tables of a recipe."""


def shipped_file(name_or_path: str, folder: Path, what: str) -> Path:
    """The path itself if it ends in ``.toml``, else the shipped file of that name.

    Args:
        name_or_path: as a command was given it.
        folder: of the shipped files.
        what: it is, for the error: "recipe".

    Raises:
        RecipeError: there is no such file; the text names the shipped ones.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = folder / f"{name_or_path}.toml"
    if not path.exists():
        shipped = ", ".join(sorted(file.stem for file in folder.glob("*.toml")))
        raise RecipeError(f"no {what} {name_or_path!r}: give the path of a .toml file, or one of {shipped}")
    return path
