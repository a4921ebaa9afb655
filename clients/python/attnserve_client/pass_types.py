# SPDX-License-Identifier: Apache-2.0
"""The answers of models that run once for an image. Like all answers they are plain values; arrays are read-only."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
"""Red, green and blue, from 0 to 255."""


@dataclass(frozen=True, slots=True)
class PassTimings:
    """The time that a request spent in each stage on the server, in seconds, and the size of its batch.

    Attributes:
        preparation_s: from the request's arrival to the queue; the image is decoded and scaled.
        queue_s: from queueing to the run of its batch.
        run_s: the run of its batch; 0 if the answer came from the cache.
        total_s: from the request's arrival to its answer.
        batch_size: requests of its batch, this one included; 0 if the answer came from the cache.
    """

    preparation_s: float
    queue_s: float
    run_s: float
    total_s: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class ClassArea:
    """A class of a segmentation.

    Attributes:
        index: its value in the class map.
        name: its name.
        colour: red, green and blue.
        share: of the image's pixels, from 0 to 1.
        confidence: mean probability of the class over its pixels, from 0 to 1; 0 if it has none.
    """

    index: int
    name: str
    colour: Colour
    share: float
    confidence: float


@dataclass(frozen=True, slots=True)
class PairwiseMap:
    """Whitened pairwise attention of the cell of one pixel (Yin et al. 2020).

    Attributes:
        query: column and row of the pixel that was asked for.
        cell: row and column of its cell.
        weights: float32 (rows, columns), with sum 1.
    """

    query: tuple[int, int]
    cell: tuple[int, int]
    weights: NDArray[np.float32] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class SegmentAttention:
    """Attention of a segmentation, over the cells of a grid.

    Cell (row, column) covers the image's pixels from (column × cell_width, row × cell_height); the last row and column may reach
    beyond the image.

    Attributes:
        rows: number of rows of cells.
        columns: number of columns of cells.
        cell_width: width of a cell in pixels of the image.
        cell_height: height of a cell in pixels of the image.
        unary: float32 (rows, columns), with sum 1: the part of the attention that all pixels share; None unless requested.
        pairwise: one map for each query, in the order of the request.
    """

    rows: int
    columns: int
    cell_width: float
    cell_height: float
    unary: NDArray[np.float32] | None = field(compare=False, repr=False)
    pairwise: tuple[PairwiseMap, ...]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The class of each pixel of an image.

    Attributes:
        class_map: uint8 (height, width): the index of each pixel's class. The image is rotated by its EXIF orientation.
        classes: all classes of the model, by their index.
        attention: None unless requested.
        model: id of the model that answered.
        version: its version.
        timings: the time spent in each stage.
    """

    class_map: NDArray[np.uint8] = field(compare=False, repr=False)
    classes: tuple[ClassArea, ...]
    attention: SegmentAttention | None
    model: str
    version: str
    timings: PassTimings = field(compare=False)

    @property
    def width(self) -> int:
        """Width of the image in pixels."""
        return int(self.class_map.shape[1])

    @property
    def height(self) -> int:
        """Height of the image in pixels."""
        return int(self.class_map.shape[0])

    @property
    def present(self) -> tuple[ClassArea, ...]:
        """The classes that have pixels, the largest first."""
        return tuple(sorted((each for each in self.classes if each.share > 0), key=lambda each: -each.share))

    def coloured(self) -> NDArray[np.uint8]:
        """Returns the class map in the classes' colours, uint8 (height, width, 3)."""
        palette = np.array([each.colour for each in self.classes], np.uint8)
        return palette[self.class_map]

    def overlay(self, pixels: NDArray[np.uint8], opacity: float = 0.55) -> NDArray[np.uint8]:
        """Returns the image under the classes' colours, uint8 (height, width, 3).

        Args:
            pixels: the upright image in red, green and blue, uint8 (height, width, 3).
            opacity: of the colours, from 0 to 1.

        Raises:
            ValueError: the image's shape is not that of the class map.
        """
        if pixels.shape != (*self.class_map.shape, 3):
            raise ValueError(f"the image has the shape {pixels.shape}, not {(*self.class_map.shape, 3)}")
        blended: NDArray[np.uint8] = np.rint((1 - opacity) * pixels + opacity * self.coloured()).astype(np.uint8)
        return blended


@dataclass(frozen=True, slots=True)
class ClassProbability:
    """A class of a classification: its index, its name and its softmax probability."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True, slots=True)
class BlockAttention:
    """Attention of one block (Woo et al. 2018, eq. 2 and 3).

    Attributes:
        block: name of the block.
        channels: float32 (C,), the factor of each channel, from 0 to 1; None if the block has none.
        spatial: float32 (rows, columns), the factor of each cell of the whole image, from 0 to 1; None if the block has none.
    """

    block: str
    channels: NDArray[np.float32] | None = field(compare=False, repr=False)
    spatial: NDArray[np.float32] | None = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Classification:
    """The most probable classes of an image.

    Attributes:
        classes: most probable first, at least one.
        attention: of each block, in the order of the network; empty unless requested.
        model: id of the model that answered.
        version: its version.
        timings: the time spent in each stage.
    """

    classes: tuple[ClassProbability, ...]
    attention: tuple[BlockAttention, ...]
    model: str
    version: str
    timings: PassTimings = field(compare=False)

    @property
    def best(self) -> ClassProbability:
        """The most probable class."""
        return self.classes[0]
