# SPDX-License-Identifier: Apache-2.0
"""Answers of tasks, as domain types; a transport converts them to messages. Arrays are float32 in native byte order."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from attnserve_server.request import DecodeOptions, FinishReason
from attnserve_server.tasks.text import Span


class Normalization(enum.Enum):
    """How a score was normalized."""

    NONE = "none"
    """There is no score."""
    SUM = "sum"
    LENGTH = "length"
    COVERAGE = "coverage"

    @classmethod
    def of(cls, options: DecodeOptions) -> Normalization:
        """Returns the normalization under these options."""
        if options.omit_score:
            return cls.NONE
        if options.coverage_penalty != 0.0:
            return cls.COVERAGE
        return cls.SUM if options.length_penalty == 0.0 else cls.LENGTH  # any length to the power 0 is 1


class TextHypothesis(msgspec.Struct):
    """One hypothesis as text; ``attention`` is (T_tgt, T_src), (T_tgt, layers, heads, T_src) or None."""

    text: str
    pieces: Sequence[Span]
    score: float
    normalization: Normalization
    finish_reason: FinishReason
    attention: npt.NDArray[np.float32] | None


class Translation(msgspec.Struct):
    """Answer to a text, best hypothesis first."""

    hypotheses: list[TextHypothesis]
    source_pieces: Sequence[Span]


class Caption(msgspec.Struct):
    """Answer to an image, best hypothesis first; width and height of the upright image in pixels."""

    hypotheses: list[TextHypothesis]
    width: int
    height: int


class TextDelta(msgspec.Struct):
    """The next part of a streamed text: the characters to append, and their pieces, with spans in the whole text."""

    text: str
    pieces: Sequence[Span]


class ClassMapFormat(enum.Enum):
    """Form of a class map."""

    PNG = "png"
    RUN_LENGTHS = "run_lengths"
    RAW = "raw"


class ClassRuns(msgspec.Struct):
    """Runs of equal classes in row-major order: the class of each (uint8) and its length in pixels (int64)."""

    classes: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64]


class ClassArea(msgspec.Struct):
    """A class: its share of the image's pixels, and its mean probability over its pixels, 0 if it has none."""

    index: int
    share: float
    confidence: float


class PairwiseMap(msgspec.Struct):
    """Attention of the cell of a pixel (x, y): the index of the cell, and its weights (rows, columns)."""

    query: tuple[int, int]
    cell: int
    weights: npt.NDArray[np.float32]


class SegmentAttention(msgspec.Struct):
    """Attention over the grid of cells: unary (rows, columns), and one map for each query; width and height of a cell in pixels."""

    rows: int
    columns: int
    cell_size: tuple[float, float]
    unary: npt.NDArray[np.float32] | None
    pairwise: list[PairwiseMap]


class Segmentation(msgspec.Struct):
    """Answer to an image: its class map at the size of the upright image (a PNG file, runs, or the raw bytes), and all classes."""

    width: int
    height: int
    format: ClassMapFormat
    map: bytes | ClassRuns
    classes: list[ClassArea]
    attention: SegmentAttention | None
    batch_size: int
    """Requests of its batch, this one included; 0 if the answer came from the cache."""


class BlockAttention(msgspec.Struct):
    """Attention of a block: factors of channels (channel), of cells (rows, columns), or both."""

    block: str
    channels: npt.NDArray[np.float32] | None
    spatial: npt.NDArray[np.float32] | None


class Classification(msgspec.Struct):
    """Answer to an image: index and probability of its classes, most probable first, and the attention of each block."""

    classes: list[tuple[int, float]]
    attention: list[BlockAttention]
    batch_size: int
    """As in :class:`Segmentation`."""


class GenerationForm(enum.Enum):
    """Form of generated images."""

    IMAGES = "images"
    GRID = "grid"


class GeneratedAttention(msgspec.Struct):
    """Self-attention of one cell (its index) over the grid of cells: a map (rows x columns), flattened, for each image."""

    rows: int
    columns: int
    cell: int
    maps: list[npt.NDArray[np.float32]]


class Generation(msgspec.Struct):
    """Generated images of one class, as PNG files: one for each, or one with ``columns`` (else 0) images in a row."""

    files: list[bytes]
    size: tuple[int, int]
    """Width and height of an image."""
    count: int
    columns: int
    label: int
    seed: int
    attention: GeneratedAttention | None
    batch_size: int
    """Of the largest batch that one of the images was in."""


class SampledFrame(msgspec.Struct):
    """A frame that the model read: its index and time in the clip, its cell in time, and a JPEG file or nothing."""

    index: int
    seconds: float
    time: int
    picture: bytes


class PositionMap(msgspec.Struct):
    """Attention of the cell of a position (frame, x, y): the index of the cell, and its weights (times, rows, columns)."""

    query: tuple[int, float, float]
    cell: int
    weights: npt.NDArray[np.float32]


class ClipAttention(msgspec.Struct):
    """Attention over the cells of a clip (times, rows, columns), a map for each query."""

    cells: tuple[int, int, int]
    maps: list[PositionMap]


class VideoClassification(msgspec.Struct):
    """Answer to a clip: as :class:`Classification`, with the frames that were read of its ``clip_frames``."""

    classes: list[tuple[int, float]]
    frames: list[SampledFrame]
    clip_frames: int
    attention: ClipAttention | None
    batch_size: int
    """As in :class:`Segmentation`."""
