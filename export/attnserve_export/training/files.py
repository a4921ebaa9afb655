# SPDX-License-Identifier: Apache-2.0
"""Files of a training run, written by way of a temporary file: after a kill there is the old file or the new one, never a part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


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
