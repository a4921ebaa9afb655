# SPDX-License-Identifier: Apache-2.0
"""What tasks answer, in domain types; a transport turns them into messages. Arrays are float32 in native byte order."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from attnserve_server.request import DecodeOptions, FinishReason
from attnserve_server.tasks.text import Span


class Normalization(enum.Enum):
    """What a score was divided by."""

    NONE = "none"
    """There is no score."""
    SUM = "sum"
    LENGTH = "length"
    COVERAGE = "coverage"

    @classmethod
    def of(cls, options: DecodeOptions) -> Normalization:
        """That of requests with these options."""
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
    """An answer to a text, best hypothesis first."""

    hypotheses: list[TextHypothesis]
    source_pieces: Sequence[Span]


class Caption(msgspec.Struct):
    """An answer to an image, best hypothesis first; its width and height in pixels as it is seen."""

    hypotheses: list[TextHypothesis]
    width: int
    height: int


class TextDelta(msgspec.Struct):
    """The next part of a streamed text: what is to be appended to it, and its pieces, which stand in the whole."""

    text: str
    pieces: Sequence[Span]
