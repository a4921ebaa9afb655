# SPDX-License-Identifier: Apache-2.0
"""The clients' answers. They are plain values: none keeps a reference to a message or a channel."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attnserve.v1 import manifest_pb2

END_LABEL = "</s>"
_BLANK_LABEL = "␣"


class FinishReason(enum.StrEnum):
    """Why a hypothesis ended: the end symbol, ``max_tokens``, or a reason that this client does not know."""

    STOP = "stop"
    LENGTH = "length"
    UNSPECIFIED = "unspecified"


class ScoreNormalization(enum.StrEnum):
    """How a score was computed.

    The sum of log-probabilities, that sum over the length to the power ``length_penalty``, or the latter plus the coverage penalty.
    """

    SUM = "sum"
    LENGTH = "length"
    COVERAGE = "coverage"
    UNSPECIFIED = "unspecified"


class Task(enum.StrEnum):
    """The task of a model; ``UNSPECIFIED`` for tasks that this client does not know."""

    TRANSLATION = "translation"
    CAPTION = "caption"
    SEGMENTATION = "segmentation"
    CLASSIFICATION = "classification"
    VIDEO_CLASSIFICATION = "video_classification"
    GENERATION = "generation"
    UNSPECIFIED = "unspecified"


class ModelState(enum.StrEnum):
    """Whether a model can answer."""

    LOADING = "loading"
    READY = "ready"
    UNSPECIFIED = "unspecified"


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of a text, at characters ``begin`` to ``end`` (exclusive, code points) of that text.

    ``copied_from`` is the index of the source piece whose characters replace the model's unknown symbol, or None.
    """

    text: str
    begin: int
    end: int
    copied_from: int | None = None

    @property
    def label(self) -> str:
        """A printable name: the text without surrounding white space, or a symbol if nothing would be visible."""
        if self.begin == self.end:
            return END_LABEL
        return self.text.strip() or _BLANK_LABEL


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One answer of a search.

    Attributes:
        text: the whole text, detokenized.
        pieces: its pieces with their spans in ``text``; the end symbol is the last one if it was produced.
        score: natural logarithm; see ``normalization``.
        normalization: how the score was computed.
        finish_reason: why it ended.
        attention: float32 weights over the source's pieces, read-only; None unless requested. Shape (T_tgt, T_src) for "mean",
            (layers, heads, T_tgt, T_src) for "all"; a model with a single map and no layers has (T_tgt, T_src) for both.
    """

    text: str
    pieces: tuple[Piece, ...]
    score: float
    normalization: ScoreNormalization
    finish_reason: FinishReason
    attention: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Timings:
    """The time that a request spent in each stage on the server, in seconds."""

    queue_s: float
    encode_s: float
    decode_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Translation:
    """A finished translation.

    Attributes:
        hypotheses: best first, at least one.
        source_pieces: the source's pieces with their spans in the request's text; the end symbol is the last one.
        model: id of the model that answered.
        version: its version.
        timings: the time spent in each stage.
    """

    hypotheses: tuple[Hypothesis, ...]
    source_pieces: tuple[Piece, ...]
    model: str
    version: str
    timings: Timings = field(compare=False)

    @property
    def best(self) -> Hypothesis:
        """The best hypothesis."""
        return self.hypotheses[0]

    @property
    def text(self) -> str:
        """The best hypothesis' text."""
        return self.best.text


@dataclass(frozen=True, slots=True)
class TranslationDelta:
    """Text to append to the text that a stream sent before, and its pieces with spans in the whole text so far."""

    text: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class ImageGrid:
    """The cells of an image that attention is over, in row-major order; the image is rotated by its EXIF orientation.

    Attributes:
        rows: number of rows of cells.
        columns: number of columns of cells.
        image_width: pixels.
        image_height: pixels.
    """

    rows: int
    columns: int
    image_width: int
    image_height: int


@dataclass(frozen=True, slots=True)
class WordMap:
    """A word of a caption and its attention map: float32 (rows, columns) with sum 1."""

    word: str
    weights: NDArray[np.float32] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Caption:
    """A finished caption.

    Attributes:
        hypotheses: best first, at least one; the columns of their attention are the grid's cells.
        grid: the cells that attention is over.
        model: id of the model that answered.
        version: its version.
        timings: the time spent in each stage; only ``total_s`` includes decoding the image.
    """

    hypotheses: tuple[Hypothesis, ...]
    grid: ImageGrid
    model: str
    version: str
    timings: Timings = field(compare=False)

    @property
    def best(self) -> Hypothesis:
        """The best hypothesis."""
        return self.hypotheses[0]

    @property
    def text(self) -> str:
        """The best hypothesis' text."""
        return self.best.text

    def word_maps(self) -> list[WordMap]:
        """Returns the best hypothesis' words with their maps; the map of a word of several pieces is their mean.

        Raises:
            ValueError: it has no single attention map.
        """
        best = self.best
        if best.attention is None or best.attention.ndim != 2:
            raise ValueError("the caption has no single attention map: request it with return_attention='mean'")
        words: list[tuple[str, list[int]]] = []
        for index, piece in enumerate(best.pieces):
            if piece.begin == piece.end:
                continue
            begins_word = piece.text[:1].isspace() or best.text[piece.begin - 1].isspace()
            if words and not begins_word:
                words[-1] = words[-1][0] + piece.text, [*words[-1][1], index]
            else:
                words.append((piece.text.strip(), [index]))
        shape = self.grid.rows, self.grid.columns
        return [WordMap(word, best.attention[indices].mean(0).reshape(shape)) for word, indices in words]


@dataclass(frozen=True, slots=True)
class CaptionDelta:
    """Text to append to the text that a stream sent before, and its pieces with spans in the whole text so far."""

    text: str
    pieces: tuple[Piece, ...]


Answer = Translation | Caption
"""A task's answer as text, best hypothesis first."""
Delta = TranslationDelta | CaptionDelta
"""A part of it."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model on a server; sizes are in pieces, without the end symbol. A model that reads images has no source tokens."""

    id: str
    version: str
    task: Task
    architecture: str
    variant: str
    state: ModelState
    max_source_tokens: int
    max_target_tokens: int
    max_beam_size: int

    @property
    def is_ready(self) -> bool:
        """Whether the model can answer."""
        return self.state is ModelState.READY


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """A model with its bundle's manifest (the message of ``manifest.proto``)."""

    model: Model
    manifest: manifest_pb2.Manifest
