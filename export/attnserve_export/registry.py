# SPDX-License-Identifier: Apache-2.0
"""Which architecture is which module: names alone, no logic. A new model is one line here and one file in ``models/``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from attnserve_export.models.rnnsearch import RnnSearch, RnnSearchConfig
from attnserve_export.models.seq2seq import Seq2Seq, Seq2SeqConfig
from attnserve_export.models.transformer import Transformer, TransformerConfig


def _transformer(vocab_size: int, sizes: dict[str, Any]) -> nn.Module:
    return Transformer(TransformerConfig(vocab_size, **sizes))


def _rnnsearch(vocab_size: int, sizes: dict[str, Any]) -> nn.Module:
    return RnnSearch(RnnSearchConfig(vocab_size, **sizes))


def _seq2seq(vocab_size: int, sizes: dict[str, Any]) -> nn.Module:
    return Seq2Seq(Seq2SeqConfig(vocab_size, **sizes))


BUILDERS: dict[str, Callable[[int, dict[str, Any]], nn.Module]] = {
    "rnnsearch": _rnnsearch,
    "seq2seq": _seq2seq,
    "transformer": _transformer,
}


def build_model(architecture: str, vocab_size: int, sizes: dict[str, Any]) -> nn.Module:
    """A module with fresh weights.

    Raises:
        KeyError: an architecture that is not registered; the text names those that are.
    """
    if architecture not in BUILDERS:
        raise KeyError(f"no architecture {architecture!r}; there are {', '.join(sorted(BUILDERS))}")
    return BUILDERS[architecture](vocab_size, sizes)
