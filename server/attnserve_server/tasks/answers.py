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
