# SPDX-License-Identifier: Apache-2.0
"""The interface of a translation model that training, parity check and scoring use, for every paper."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class TranslationModel(Protocol):
    """An encoder and a decoder with teacher forcing. Token id 0 is padding."""

    @property
    def output_weight(self) -> Tensor:
        """The output layer's matrix (V, d), a parameter."""
        ...

    def encode(self, src: Tensor) -> Tensor:
        """Source tokens int64 (B, T_src) -> memory."""
        ...

    def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Processes all target positions at once; returns hidden states (B, T_tgt, d), and alignments."""
        ...

    def project(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., d) -> logits (..., V)."""
        ...

    def next_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., d) -> logits as served (..., V)."""
        ...
