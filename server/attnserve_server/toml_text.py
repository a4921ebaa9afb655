# SPDX-License-Identifier: Apache-2.0
"""Reads and writes TOML: files, values, and the inline tables that variables of the environment may hold."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from attnserve_server.errors import ConfigError


def read_toml(file: Path) -> dict[str, Any]:
    """Returns the content of a file.

    Raises:
        ConfigError: it cannot be read, or is no TOML file.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also integers of thousands of digits, and deep nesting
        raise ConfigError(f"{file}: not a TOML file: {error}") from None


def read_inline(text: str) -> Any:
    """Returns the value of a text such as ``{a = 1}``.

    Raises:
        ValueError: it is not one value of TOML.
    """
    try:
        found = tomllib.loads(f"value = {text}")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if found.keys() != {"value"}:
        raise ValueError("more than one value")
    return found["value"]


def toml_value(value: Any) -> str:
    """Returns a value as TOML; a table as an inline one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_value(name)} = {toml_value(each)}" for name, each in value.items()) + "}"
    return repr(value)
