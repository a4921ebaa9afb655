# SPDX-License-Identifier: Apache-2.0
"""Converts attention between pieces to alignments between words, so that models with different pieces can be compared."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnserve_client.types import Piece, Translation

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Word:
    """A run of letters and digits, at characters ``begin`` to ``end`` (exclusive) of its text."""

    begin: int
    end: int


def words_of(text: str) -> list[Word]:
    """Returns the words of a text; the characters between them belong to no word."""
    return [Word(match.start(), match.end()) for match in _WORD.finditer(text)]


def shares(words: Sequence[Word], pieces: Sequence[Piece]) -> NDArray[np.float64]:
    """Returns the share of each piece's characters in each word: (words, pieces)."""
    table = np.zeros((len(words), len(pieces)))
    for row, word in enumerate(words):
        for column, piece in enumerate(pieces):
            common = min(word.end, piece.end) - max(word.begin, piece.begin)
            if common > 0:
                table[row, column] = common / (piece.end - piece.begin)
    return table


def common_words(*texts: str) -> list[Word]:
    """Returns the common prefix of the texts, in words."""
    length = len(os.path.commonprefix(texts))
    common = set.intersection(*(set(words_of(text)) for text in texts))
    return sorted((word for word in common if word.end <= length), key=lambda word: word.begin)


def with_means(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Appends the mean over heads, and then the mean over layers: (layers, heads, ...) -> (layers + 1, heads + 1, ...)."""
    with_heads = np.concatenate([weights, weights.mean(1, keepdims=True)], 1)
    return np.concatenate([with_heads, with_heads.mean(0, keepdims=True)], 0)


def most_attended(
    translation: Translation, weights: NDArray[np.float32], source: Sequence[Word], target: Sequence[Word]
) -> NDArray[np.intp]:
    """Returns the source word with the highest attention of each target word.

    Args:
        translation: the translation that the weights belong to.
        weights: attention between pieces, (..., T_tgt, T_src).
        source: words of the source; a piece's weight is divided among words by their share of its characters.
        target: words of the translation; a word's attention is the mean over its pieces.

    Returns:
        Indices in ``source``, (..., target words).
    """
    of_source, of_target = shares(source, translation.source_pieces), shares(target, translation.best.pieces)
    best: NDArray[np.intp] = (of_target @ weights.astype(np.float64) @ of_source.T).argmax(-1)
    return best
