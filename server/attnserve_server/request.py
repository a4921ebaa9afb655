# SPDX-License-Identifier: Apache-2.0
"""What a request is inside the server: the types that cross from the front to a worker and back.

They are msgspec structs, so that the local socket carries them as MessagePack without a schema beside these classes.
Times are seconds of the monotonic clock, which all processes of one machine share.
"""

from __future__ import annotations

import enum

import msgspec

MIN_PRIORITY, MAX_PRIORITY = -2, 2


class AttentionDetail(enum.IntEnum):
    """How much attention the answer carries."""

    NONE = 0
    MEAN = 1
    ALL = 2


class FinishReason(enum.IntEnum):
    """Why a hypothesis ended."""

    STOP = 1
    LENGTH = 2


class Sampling(msgspec.Struct, frozen=True):
    """How tokens are drawn: penalties first, then temperature, ``top_k`` (0 for all) and ``top_p``, in this order."""

    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    is_drawn: bool = False
    """The server drew the seed: no other request will have it."""


class DecodeOptions(msgspec.Struct, frozen=True):
    """Validated options of one request; ``max_tokens`` and ``min_tokens`` count the prefix, but not the end symbol."""

    beam_size: int = 1
    num_hypotheses: int = 1
    length_penalty: float = 1.0
    coverage_penalty: float = 0.0
    max_tokens: int = 128
    min_tokens: int = 0
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    sampling: Sampling | None = None
    prefix: tuple[int, ...] = ()
    attention: AttentionDetail = AttentionDetail.NONE
    omit_score: bool = False
    """The answer's score is 0: with greedy search nothing is computed for it."""

    @property
    def num_rows(self) -> int:
        """Rows that the request may hold at once."""
        return self.beam_size if self.sampling is None else self.num_hypotheses


class Terms(msgspec.Struct, frozen=True):
    """On what terms a request is served: what shapes when it is answered, and never what the answer is."""

    deadline: float | None = None
    """Absolute, in seconds of the monotonic clock; None for none."""
    is_streamed: bool = False
    """Tokens are wanted as they become certain."""
    priority: int = 0
    """From MIN_PRIORITY to MAX_PRIORITY, higher is sooner."""
    client: str = ""
    """Whose request it is: clients share the engine fairly."""


class ImageSource(msgspec.Struct, frozen=True):
    """An image as an encode graph reads it: uint8 (height, width, 3) row by row, and the cells that attention is over."""

    pixels: bytes
    num_cells: int


Source = list[int] | ImageSource
"""What a model is asked: token ids, their end symbol included, or an image."""


class SequenceRequest(msgspec.Struct):
    """One request as the engine sees it: source token ids, their end symbol included, or an image; options and terms."""

    request_id: int
    tokens: list[int]
    options: DecodeOptions = DecodeOptions()
    terms: Terms = Terms()
    image: ImageSource | None = None

    @classmethod
    def of(cls, request_id: int, source: Source, options: DecodeOptions, terms: Terms) -> SequenceRequest:
        """A request for either kind of source."""
        if isinstance(source, ImageSource):
            return cls(request_id, [], options, terms, source)
        return cls(request_id, source, options, terms)

    @property
    def source(self) -> Source:
        """The tokens, or the image."""
        return self.tokens if self.image is None else self.image

    @property
    def source_length(self) -> int:
        """What attention is over: tokens, or cells."""
        return len(self.tokens) if self.image is None else self.image.num_cells


class AttentionWeights(msgspec.Struct):
    """Float32 weights in native byte order, of shape (num_target, num_source) or (num_target, layers, heads, num_source)."""

    shape: tuple[int, ...]
    data: bytes


class Hypothesis(msgspec.Struct):
    """One result of a search: its tokens (the end symbol last, where it was produced) and its normalized score."""

    tokens: list[int]
    score: float
    finish_reason: FinishReason
    attention: AttentionWeights | None = None
    copied_from: dict[int, int] = {}
    """For each unknown symbol: its index in ``tokens``, and the source token that it attended to most."""
    coverage: float = 0.0
    """What of the score is the coverage penalty, its weight included."""


class TokensProduced(msgspec.Struct, tag="tokens"):
    """Tokens of a streamed request as they become certain; ``copied_from`` as in :class:`Hypothesis`, by index in these."""

    request_id: int
    tokens: list[int]
    copied_from: dict[int, int] = {}


class RequestFinished(msgspec.Struct, tag="finished"):
    """A request's answer, best hypothesis first, with the times of its events (see ``metrics/intervals.py``)."""

    request_id: int
    hypotheses: list[Hypothesis]
    admitted_at: float
    encode_s: float
    first_token_at: float
    finished_at: float
    num_steps: int


class RequestFailed(msgspec.Struct, tag="failed"):
    """A request that a worker gave up: ``reason`` is that of a :class:`ServiceError` subclass."""

    request_id: int
    reason: str
    message: str


RequestEvent = TokensProduced | RequestFinished | RequestFailed
