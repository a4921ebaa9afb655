# SPDX-License-Identifier: Apache-2.0
"""What all recipes have in common: tables that refuse unknown keys, and the error that says what is wrong with one."""

from __future__ import annotations

import msgspec


class RecipeError(Exception):
    """The recipe is missing, or a key is missing, unknown, or of the wrong type or value."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all tables of a recipe."""
