# SPDX-License-Identifier: Apache-2.0
"""What parity is checked on: a grid of made-up sources, and real ones; texts as tokens, or images as pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from attnserve_export.training.data import pad

GRID = [(rows, length) for rows in (1, 2, 5, 32) for length in (2, 7, 24, 61)]
"""Sources of a batch, and their length; that of an image is always the same."""
COUNTS = sorted({count for count, _ in GRID})
BATCH = 32

Array = npt.NDArray[Any]


class Sources(Protocol):
    """What a model is asked: made-up sources for the grid, and real ones."""

    @property
    def grid(self) -> Sequence[tuple[int, int]]:
        """Sources of a batch and their length, for every batch of the grid."""
        ...

    def made_up(self, rng: np.random.Generator, count: int, length: int) -> Array:
        """A batch as the module's encoder takes it."""
        ...

    def batches(self) -> Iterator[Array]:
        """All real sources, as the module's encoder takes them."""
        ...

    def feeds(self, source: Array) -> dict[str, Array]:
        """A batch as the encode graph's inputs, by name."""
        ...

    def __len__(self) -> int:
        """Real sources."""
        ...


class TextSources:
    """Texts as tokens.

    Args:
        texts: each with its end symbol.
        vocab_size: made-up ones have tokens below it.
        grid: sources of a batch, and their length.
    """

    def __init__(self, texts: list[list[int]], vocab_size: int, grid: Sequence[tuple[int, int]] = GRID) -> None:
        self._texts, self._vocab_size, self.grid = texts, vocab_size, grid

    def __len__(self) -> int:
        return len(self._texts)

    def made_up(self, rng: np.random.Generator, count: int, length: int) -> Array:
        """Random tokens, the last source half as long as the others."""
        lengths = np.full(count, length)
        lengths[-1] = max(1, length // 2)
        source = rng.integers(4, self._vocab_size, (count, length))
        source[np.arange(length)[None] >= lengths[:, None]] = 0
        return source

    def batches(self) -> Iterator[Array]:
        """In their order."""
        yield from (pad(self._texts[start : start + BATCH]).numpy() for start in range(0, len(self), BATCH))

    def feeds(self, source: Array) -> dict[str, Array]:
        """Tokens and lengths."""
        return {"source": source, "source_length": (source != 0).sum(1)}


class ImageSources:
    """Images of the size that the model reads.

    Args:
        images: uint8 (height, width, 3) each.
        num_cells: of the grid that the model makes of one.
        counts: images of a batch; as many as there are texts in the other grid.
    """

    def __init__(self, images: Sequence[Array], num_cells: int, counts: Sequence[int] = COUNTS) -> None:
        self._images = images
        self.grid = [(count, num_cells) for count in counts]

    def __len__(self) -> int:
        return len(self._images)

    def made_up(self, rng: np.random.Generator, count: int, length: int) -> Array:
        """Noise of different contrasts."""
        contrast = rng.integers(1, 256, (count, 1, 1, 1))
        return (rng.integers(0, 256, (count, *self._images[0].shape)) * contrast // 255).astype(np.uint8)

    def batches(self) -> Iterator[Array]:
        """In their order."""
        yield from (np.stack(self._images[start : start + BATCH]) for start in range(0, len(self), BATCH))

    def feeds(self, source: Array) -> dict[str, Array]:
        """The pixels."""
        return {"image": source}
