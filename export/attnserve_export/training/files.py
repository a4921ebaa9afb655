# SPDX-License-Identifier: Apache-2.0
"""Atomic writes of a training run's files, by a temporary file: after a kill a file has its old or its new content."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from attnserve_export.recipe.base import RecipeError

LOCK = "run.lock"
"""Name of the lock file in a run's folder; the process that trains the run holds the lock."""


def save_atomically(value: Any, path: Path) -> None:
    """Writes a value for ``torch.load``; replaces the file atomically, by way of ``path`` with the suffix ``.tmp``.

    Raises:
        OSError: the file cannot be written, or its folder does not exist.
    """
    temporary = path.with_suffix(".tmp")
    torch.save(value, temporary)
    temporary.replace(path)


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Writes a JSON object, indented, in UTF-8; replaces the file atomically, by way of ``path`` with the suffix ``.tmp``.

    Raises:
        TypeError: JSON has no form of a value in ``content``.
        OSError: the file cannot be written, or its folder does not exist.
    """
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


@contextlib.contextmanager
def locked(path: Path, *, waits: bool) -> Iterator[None]:
    """Holds a lock file within the context; the operating system releases it when the process ends, also after a kill.

    Args:
        path: the lock file, which is not removed.
        waits: whether to wait for another process that holds it.

    Raises:
        RecipeError: another process holds it, and ``waits`` is false.
    """
    with path.open("a", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RecipeError(f"another process uses {path.parent}: wait until it ends, or end it") from error
        yield
