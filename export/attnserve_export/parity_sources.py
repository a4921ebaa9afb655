# SPDX-License-Identifier: Apache-2.0
"""Inputs of the parity check: a grid of synthetic sources, and real ones; texts as tokens, or images as pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from attnserve_export.training.data import pad

GRID = [(rows, length) for rows in (1, 2, 5, 32) for length in (2, 7, 24, 61)]
"""(number of sources, source length) of each batch; the length of an image is fixed."""
COUNTS = sorted({count for count, _ in GRID})
BATCH = 32

Array = npt.NDArray[Any]


class Sources(Protocol):
    """Inputs of the parity check: synthetic sources for the grid, and real ones."""

    @property
    def grid(self) -> Sequence[tuple[int, int]]:
        """(number of sources, source length) of every batch of the grid."""
        ...

    def made_up(self, rng: np.random.Generator, count: int, length: int) -> Array:
        """Returns a synthetic batch in the form that the module's encoder takes."""
        ...

    def batches(self) -> Iterator[Array]:
        """Yields all real sources in batches, in the form that the module's encoder takes."""
        ...

    def feeds(self, source: Array) -> dict[str, Array]:
        """Converts a batch to the encode graph's inputs, by name."""
        ...

    def __len__(self) -> int:
        """Number of real sources."""
        ...


class TextSources:
    """Texts as tokens.

    Args:
        texts: token ids, each text with its end symbol.
        vocab_size: upper bound of synthetic token ids.
        grid: number of sources and their length, for each batch.
    """

    def __init__(self, texts: list[list[int]], vocab_size: int, grid: Sequence[tuple[int, int]] = GRID) -> None:
        self._texts, self._vocab_size, self.grid = texts, vocab_size, grid

    def __len__(self) -> int:
        return len(self._texts)

    def made_up(self, rng: np.random.Generator, count: int, length: int) -> Array:
        """Returns random tokens; the last source is half as long as the others."""
        lengths = np.full(count, length)
        lengths[-1] = max(1, length // 2)
        source = rng.integers(4, self._vocab_size, (count, length))
        source[np.arange(length)[None] >= lengths[:, None]] = 0
        return source

    def batches(self) -> Iterator[Array]:
        """Yields the texts in their order."""
        yield from (pad(self._texts[start : start + BATCH]).numpy() for start in range(0, len(self), BATCH))

    def feeds(self, source: Array) -> dict[str, Array]:
        """Returns tokens and lengths."""
        return {"source": source, "source_length": (source != 0).sum(1)}


class ImageSources:
    """Images of the size that the model reads.

    Args:
        images: uint8 (height, width, 3) each.
        num_cells: cells of the model's grid for one image.
        counts: images of each batch.
    """

    def __init__(self, images: Sequence[Array], num_cells: int, counts: Sequence[int] = COUNTS) -> None:
        self._images = images
        self.grid = [(count, num_cells) for count in counts]

    def __len__(self) -> int:
        return len(self._images)

    def made_up(self, rng: np.random.Generator, count: int, length: int) -> Array:
        """Returns noise of different contrasts."""
        contrast = rng.integers(1, 256, (count, 1, 1, 1))
        return (rng.integers(0, 256, (count, *self._images[0].shape)) * contrast // 255).astype(np.uint8)

    def batches(self) -> Iterator[Array]:
        """Yields the images in their order."""
        yield from (np.stack(self._images[start : start + BATCH]) for start in range(0, len(self), BATCH))

    def feeds(self, source: Array) -> dict[str, Array]:
        """Returns the pixels."""
        return {"image": source}
