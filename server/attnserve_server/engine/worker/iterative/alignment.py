# SPDX-License-Identifier: Apache-2.0
"""The attention that is kept with hypotheses: for the answer, for the coverage penalty, and to replace unknown symbols."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attnserve.v1 import manifest_pb2
from attnserve_server.decoding.search import Path
from attnserve_server.engine.worker.iterative.sequence import Decoding
from attnserve_server.request import AttentionDetail

Floats = npt.NDArray[np.float32]


class Alignment:
    """Keeps the attention of each token, and finds the source token with the largest share of it.

    Args:
        attention: the manifest's declaration.
        unknown_id: the unknown symbol.
        can_align: whether any step graph gives attention; if none does, no hypothesis has unknown symbols.
    """

    def __init__(self, attention: manifest_pb2.AttentionOutput, unknown_id: int, *, can_align: bool) -> None:
        self._unknown_id, self._can_align = unknown_id, can_align
        self._mean_of = np.ix_(
            list(attention.mean_layers) or range(attention.num_layers), list(attention.mean_heads) or range(attention.num_heads)
        )

    def note(self, sequence: Decoding, attention: Any) -> None:
        """Adds a step's attention (rows, ..., source), if the graph gave it, to the sequence's hypotheses."""
        if attention is None:
            return
        num_source = sequence.num_tokens
        keeps_all = sequence.payload.options.attention == AttentionDetail.ALL
        for row, path in zip(sequence.rows, sequence.search.live, strict=True):
            weights = attention[row, ..., :num_source]
            path.attention.append(weights.copy() if keeps_all else self._mean(weights))

    def lacks(self, sequence: Decoding, tokens: list[int]) -> bool:
        """Whether ``tokens`` contain unknown symbols for which no attention was kept to choose a replacement."""
        return not sequence.keeps_attention and self._unknown_id in tokens and self._can_align

    def copied_from(self, sequence: Decoding, path: Path, start: int) -> dict[int, int]:
        """Finds for each unknown symbol in ``path.tokens[start:]`` the source token with most attention, the one to copy.

        Returns:
            Index in that slice -> index in the source's tokens; empty if no attention was kept, or the source is an image.
        """
        num_source = len(sequence.payload.tokens) - 1  # the end symbol has no characters
        if num_source < 1 or not sequence.keeps_attention:
            return {}
        unknown = [index for index, token in enumerate(path.tokens[start:]) if token == self._unknown_id]
        return {index: int(self._mean(path.attention[start + index])[:num_source].argmax()) for index in unknown}

    def coverage(self, path: Path) -> npt.NDArray[np.float64]:
        """Returns the total attention of a hypothesis on each source token (num_source,)."""
        covered: npt.NDArray[np.float64] = np.stack([self._mean(weights) for weights in path.attention]).sum(0, dtype=np.float64)
        return covered

    def _mean(self, weights: Any) -> Floats:
        """Returns one token's attention (num_source,), the mean if it is (layers, heads, num_source)."""
        if weights.ndim == 1:
            return np.array(weights, np.float32)
        mean: Floats = weights[self._mean_of].mean((0, 1), dtype=np.float32)
        return mean
