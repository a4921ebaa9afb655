# SPDX-License-Identifier: Apache-2.0
"""What a request is inside the server: an envelope, which front, link and worker handle, and what is in it, which engines read.

:class:`Work` goes from the front to a worker; :class:`Done`, :class:`Failed` or parts of a stream come back. Payload, outcome and
parts are of one *kind* of engine (``kinds.py``); those of models that decode step by step are here.

All are msgspec structs, so that the local socket carries them as MessagePack without a schema beside these classes: arrays without
field names, and none of them is tracked by the garbage collector. Times are seconds of the monotonic clock, which all processes of
one machine share.
"""

from __future__ import annotations

import enum
from typing import Generic, NamedTuple, TypeVar

import msgspec

MIN_PRIORITY, MAX_PRIORITY = -2, 2


class ModelKey(NamedTuple):
    """Which model: it is known by this on both sides of the link, in queues, metrics and health."""

    id: str
    version: str


class AttentionDetail(enum.IntEnum):
    """How much attention the answer carries."""

    NONE = 0
    MEAN = 1
    ALL = 2


class FinishReason(enum.IntEnum):
    """Why a hypothesis ended."""

    STOP = 1
    LENGTH = 2


class Sampling(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """How tokens are drawn: penalties first, then temperature, ``top_k`` (0 for all) and ``top_p``, in this order."""

    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    is_drawn: bool = False
    """The server drew the seed: no other request will have it."""


class DecodeOptions(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
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


class Terms(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """On what terms a request is served: what shapes when it is answered, and never what the answer is."""

    deadline: float | None = None
    """Absolute, in seconds of the monotonic clock; None for none."""
    is_streamed: bool = False
    """Tokens are wanted as they become certain."""
    priority: int = 0
    """From MIN_PRIORITY to MAX_PRIORITY, higher is sooner."""
    client: str = ""
    """Whose request it is: clients share the engine fairly."""


PayloadT = TypeVar("PayloadT")
OutcomeT = TypeVar("OutcomeT")


class Work(msgspec.Struct, Generic[PayloadT], tag="work", array_like=True, omit_defaults=True, gc=False):
    """One request on its way to an engine."""

    request_id: int
    """Its number, on both sides of the link."""
    model: ModelKey
    terms: Terms
    num_rows: int
    """Rows that it may hold at once."""
    cost: float
    """What it takes to serve it, in rows times source tokens: translations are about as long as what they translate."""
    payload: PayloadT
    log_id: str = "-"
    """The client's id of the request: logs of front and worker name it."""


class Done(msgspec.Struct, Generic[OutcomeT], tag="done", array_like=True, omit_defaults=True, gc=False):
    """A request's answer, with the times of its events (see ``metrics/intervals.py``)."""

    request_id: int
    outcome: OutcomeT
    admitted_at: float
    encode_s: float
    first_token_at: float
    finished_at: float
    num_steps: int


class Failed(msgspec.Struct, tag="failed", array_like=True, omit_defaults=True, gc=False):
    """A request that a worker gave up: ``reason`` is that of a :class:`ServiceError` subclass."""

    request_id: int
    reason: str
    message: str


# --- Models that decode step by step ---


class ImageSource(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """An image as an encode graph reads it: uint8 (height, width, 3) row by row, and the cells that attention is over."""

    pixels: bytes
    num_cells: int


Source = list[int] | ImageSource
"""What a model is asked: token ids, their end symbol included, or an image."""


class SequencePayload(msgspec.Struct, tag="sequence", array_like=True, omit_defaults=True, gc=False):
    """What is to be decoded: source token ids, their end symbol included, or an image; and how."""

    tokens: list[int]
    options: DecodeOptions = DecodeOptions()
    image: ImageSource | None = None

    @classmethod
    def of(cls, source: Source, options: DecodeOptions) -> SequencePayload:
        """A payload for either kind of source."""
        return cls([], options, source) if isinstance(source, ImageSource) else cls(source, options)

    @property
    def source(self) -> Source:
        """The tokens, or the image."""
        return self.tokens if self.image is None else self.image

    @property
    def num_rows(self) -> int:
        """See ``kinds.py: Payload``."""
        return self.options.num_rows

    @property
    def num_source(self) -> int:
        """What attention is over: tokens, or cells."""
        return len(self.tokens) if self.image is None else self.image.num_cells

    @property
    def num_pieces(self) -> int:
        """See ``kinds.py: Payload``."""
        return len(self.tokens) - 1 if self.image is None else 0

    @property
    def max_steps(self) -> int:
        """See ``kinds.py: Payload``."""
        return self.options.max_tokens

    @property
    def is_reproducible(self) -> bool:
        """A seed that the server drew, no other request will have."""
        return self.options.sampling is None or not self.options.sampling.is_drawn


class AttentionWeights(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """Float32 weights in native byte order, of shape (num_target, num_source) or (num_target, layers, heads, num_source)."""

    shape: tuple[int, ...]
    data: bytes


class Hypothesis(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """One result of a search: its tokens (the end symbol last, where it was produced) and its normalized score."""

    tokens: list[int]
    score: float
    finish_reason: FinishReason
    attention: AttentionWeights | None = None
    copied_from: dict[int, int] = {}
    """For each unknown symbol: its index in ``tokens``, and the source token that it attended to most."""
    coverage: float = 0.0
    """What of the score is the coverage penalty, its weight included."""


class SequenceOutcome(msgspec.Struct, tag="sequence", array_like=True, omit_defaults=True, gc=False):
    """What was decoded, best hypothesis first."""

    hypotheses: list[Hypothesis]

    @property
    def num_generated(self) -> int:
        """Tokens of the best hypothesis, the end symbol included."""
        return len(self.hypotheses[0].tokens)

    def as_part(self, request_id: int) -> TokensProduced:
        """The best hypothesis as one part of a stream."""
        return TokensProduced(request_id, self.hypotheses[0].tokens, self.hypotheses[0].copied_from)


class TokensProduced(msgspec.Struct, tag="tokens", array_like=True, omit_defaults=True, gc=False):
    """Tokens of a streamed request as they become certain; ``copied_from`` as in :class:`Hypothesis`, by index in these."""

    request_id: int
    tokens: list[int]
    copied_from: dict[int, int] = {}

    @property
    def size(self) -> int:
        """How many tokens."""
        return len(self.tokens)

    def merged(self, following: TokensProduced) -> TokensProduced:
        """Both as one part: indices of the second count from the first one's tokens."""
        shifted = {len(self.tokens) + index: origin for index, origin in following.copied_from.items()}
        return TokensProduced(self.request_id, self.tokens + following.tokens, self.copied_from | shifted)


NO_MODEL = ModelKey("", "")


def sequence_work(
    request_id: int,
    source: Source,
    options: DecodeOptions = DecodeOptions(),  # noqa: B008  it is immutable
    terms: Terms = Terms(),  # noqa: B008  likewise
    model: ModelKey = NO_MODEL,
) -> Work[SequencePayload]:
    """An envelope as the front makes it; for driving an engine without one."""
    payload = SequencePayload.of(source, options)
    return Work(request_id, model, terms, payload.num_rows, payload.num_rows * payload.num_source, payload)


SequenceWork = Work[SequencePayload]
SequenceDone = Done[SequenceOutcome]
SequenceEvent = TokensProduced | Done[SequenceOutcome] | Failed
