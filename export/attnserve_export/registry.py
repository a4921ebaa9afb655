# SPDX-License-Identifier: Apache-2.0
"""The table of architectures: the module and the graphs of each. It holds no logic.

A new model is one entry here, one file in ``models/`` and one in ``graphs/``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from attnserve_export.graphs import (
    cbam,
    disentangled_nonlocal,
    nonlocal_video,
    rnnsearch,
    sagan,
    seq2seq,
    show_attend_tell,
    transformer,
)
from attnserve_export.graphs.spec import Graphs
from attnserve_export.models.cbam import Cbam, CbamConfig
from attnserve_export.models.disentangled_nonlocal import DisentangledNonLocal, DisentangledNonLocalConfig
from attnserve_export.models.nonlocal_video import NonlocalVideo, NonlocalVideoConfig
from attnserve_export.models.rnnsearch import RnnSearch, RnnSearchConfig
from attnserve_export.models.sagan import SaganConfig
from attnserve_export.models.seq2seq import Seq2Seq, Seq2SeqConfig
from attnserve_export.models.show_attend_tell import ShowAttendTell, ShowAttendTellConfig
from attnserve_export.models.transformer import Transformer, TransformerConfig

MAX_TOKENS = 128
"""Limits of a bundle: source tokens (the end symbol counted) and target tokens (not counted)."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A config class (its arguments: vocabulary size or number of classes, then a recipe's ``model``), its module, its graphs."""

    config: Callable[..., Any]
    module: Callable[[Any], nn.Module]
    graphs: Graphs
    bundle_sizes: Mapping[str, Any] = field(default_factory=dict)
    """Config values of a bundle's module that differ from the trained module's; the weights are the same."""
    stored_bits: int = 16
    """Bits of a stored weight. With 8, matrices and kernels have one scale for each output, and vectors have 16 bits."""

    norms: Mapping[str, str] = field(default_factory=dict)
    """Attribute of a layer -> that of the batch normalisation after it that is folded into it before the weights are stored."""

    leading_norms: Mapping[str, str] = field(default_factory=dict)
    """Attribute of a batch normalisation -> that of the linear layer after it into which it is folded likewise."""

    fold: Callable[[nn.Module], None] = lambda model: None
    """Folds what else a bundle's module has folded, in place."""


ARCHITECTURES: dict[str, Architecture] = {
    "cbam": Architecture(CbamConfig, Cbam, cbam.GRAPHS, norms=cbam.NORMS),
    "disentangled_nonlocal": Architecture(
        DisentangledNonLocalConfig, DisentangledNonLocal, disentangled_nonlocal.GRAPHS, norms=disentangled_nonlocal.NORMS
    ),
    "nonlocal-video": Architecture(
        NonlocalVideoConfig,
        NonlocalVideo,
        nonlocal_video.GRAPHS,
        norms=nonlocal_video.NORMS,
        leading_norms=nonlocal_video.LEADING_NORMS,
    ),
    "rnnsearch": Architecture(RnnSearchConfig, RnnSearch, rnnsearch.GRAPHS),
    "sagan": Architecture(SaganConfig, sagan.make_average, sagan.GRAPHS, fold=sagan.fold_generator),
    "seq2seq": Architecture(Seq2SeqConfig, Seq2Seq, seq2seq.GRAPHS),
    "show-attend-tell": Architecture(ShowAttendTellConfig, ShowAttendTell, show_attend_tell.GRAPHS, stored_bits=8),
    "transformer": Architecture(TransformerConfig, Transformer, transformer.GRAPHS, {"max_positions": MAX_TOKENS + 1}),
}


def build_model(architecture: str, vocab_size: int, sizes: Mapping[str, Any]) -> nn.Module:
    """Builds a module with fresh weights; ``vocab_size``: of the vocabulary, or the number of classes.

    Raises:
        KeyError: the architecture is not registered; the text lists those that are.
    """
    if architecture not in ARCHITECTURES:
        raise KeyError(f"no architecture {architecture!r}; there are {', '.join(sorted(ARCHITECTURES))}")
    found = ARCHITECTURES[architecture]
    return found.module(found.config(vocab_size, **sizes))
