# SPDX-License-Identifier: Apache-2.0
"""Which architecture is which module: names alone, no logic. A new model is one line here and one file in ``models/``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from attnserve_export.models.transformer import Transformer, TransformerConfig


def _transformer(vocab_size: int, sizes: dict[str, Any]) -> nn.Module:
    return Transformer(TransformerConfig(vocab_size, **sizes))


BUILDERS: dict[str, Callable[[int, dict[str, Any]], nn.Module]] = {"transformer": _transformer}


def build_model(architecture: str, vocab_size: int, sizes: dict[str, Any]) -> nn.Module:
    """A module with fresh weights.

    Raises:
        KeyError: an architecture that is not registered; the text names those that are.
    """
    if architecture not in BUILDERS:
        raise KeyError(f"no architecture {architecture!r}; there are {', '.join(sorted(BUILDERS))}")
    return BUILDERS[architecture](vocab_size, sizes)
