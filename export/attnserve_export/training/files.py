# SPDX-License-Identifier: Apache-2.0
"""Files of a training run, written by way of a temporary file: after a kill there is the old file or the new one, never a part."""

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
"""Of a run's folder: the process that trains in it holds it."""


def save_atomically(value: Any, path: Path) -> None:
    """Saves what ``torch.load`` reads."""
    temporary = path.with_suffix(".tmp")
    torch.save(value, temporary)
    temporary.replace(path)


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Writes one JSON object."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


@contextlib.contextmanager
def locked(path: Path, *, waits: bool) -> Iterator[None]:
    """Holds a lock file while the context lasts; the system frees it when the process ends, however that happens.

    Args:
        path: of the lock file, which stays.
        waits: for another process that has it.

    Raises:
        RecipeError: another process has it, and ``waits`` is false.
    """
    with path.open("a", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RecipeError(f"another process uses {path.parent}: wait until it ends, or end it") from error
        yield
