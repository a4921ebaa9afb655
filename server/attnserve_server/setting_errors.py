# SPDX-License-Identifier: Apache-2.0
"""Errors of settings: which key is at fault, why, and where its value comes from."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from attnserve_server.errors import ConfigError
from attnserve_server.toml_text import toml_value

_ANY_ENTRY = "[...]"
"""Where msgspec's path goes through a table whose keys are not fields."""


_UNNAMED = ("Invalid enum value", "Expected `str` matching regex")
"""Beginnings of msgspec's texts that do not say in words which values are allowed."""


def explained(
    error: msgspec.ValidationError, origin: str, entry: Callable[[], str] = str, allowed: Callable[[str], str] = lambda key: ""
) -> ConfigError:
    """Turns msgspec's "… - at `$.grpc.port`" into an error that names the key first, then the source of its value.

    Args:
        error: the error.
        origin: the source.
        entry: returns the key of the table's entry at fault, which msgspec does not name.
        allowed: returns in words which values a key allows; empty if that is not known.
    """
    text, _, path = str(error).partition(" - at `")
    key = path.rstrip("`").removeprefix("$").removeprefix(".")
    if _ANY_ENTRY in key:
        named = entry()
        key = key.replace(_ANY_ENTRY, "." + (named if re.fullmatch("[A-Za-z0-9_-]+", named) else toml_value(named)), 1)
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
    if unknown is not None:
        key, text = f"{key}.{unknown[1]}".removeprefix("."), "no such setting"
    if text.startswith(_UNNAMED) and (values := allowed(key)):
        text = f"must be {values}"
    return ConfigError(f"{key}: {text} (from {origin})")
