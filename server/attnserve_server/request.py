# SPDX-License-Identifier: Apache-2.0
"""Requests inside the server: the envelope, which front, link and worker handle, and the payload, which engines read.

:class:`Work` goes from the front to a worker; :class:`Done`, :class:`Failed` or parts of a stream come back. The types of payload,
outcome and part belong to one *kind* of engine (``kinds.py``); those of iterative models are here.

All are msgspec structs. The local socket carries them as MessagePack arrays without field names; these classes are the schema. The
garbage collector does not track them. Times are seconds of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import enum
from typing import Generic, NamedTuple, TypeVar

import msgspec

MIN_PRIORITY, MAX_PRIORITY = -2, 2


class ModelKey(NamedTuple):
    """Identifies a model on both sides of the link, in queues, metrics and health."""

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
    """Whether the server drew the seed, so that no other request has it."""


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
    """The answer's score is 0; greedy search then computes no log-probabilities."""

    @property
    def num_rows(self) -> int:
        """Maximum number of row slots."""
        return self.beam_size if self.sampling is None else self.num_hypotheses


class Terms(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """Terms of a request: they affect when it is answered, never the answer."""

    deadline: float | None = None
    """Absolute, in seconds of the monotonic clock; None for none."""
    is_streamed: bool = False
    """Tokens are sent as they become certain."""
    priority: int = 0
    """From MIN_PRIORITY to MAX_PRIORITY, higher is sooner."""
    client: str = ""
    """Client of the request, for fair queueing."""
    part: str = ""
    """Part of the client, which divides the client's share."""

    def without_deadline(self) -> Terms:
        """Returns the same terms with no deadline."""
        return msgspec.structs.replace(self, deadline=None)


PayloadT = TypeVar("PayloadT")
OutcomeT = TypeVar("OutcomeT")


class Work(msgspec.Struct, Generic[PayloadT], tag="work", array_like=True, omit_defaults=True, gc=False):
    """Envelope of one request for an engine."""

    request_id: int
    """Number of the request on both sides of the link."""
    model: ModelKey
    terms: Terms
    num_rows: int
    """Maximum number of row slots."""
    cost: float
    """Estimated cost, rows times source tokens: a translation is about as long as its source."""
    payload: PayloadT
    log_id: str = "-"
    """The client's request id, for the logs of front and worker."""
    block: tuple[int, int] | None = None
    """Where its tensors are in the memory that front and worker share (``engine/link/shared.py``); None if in the payload."""


class Done(msgspec.Struct, Generic[OutcomeT], tag="done", array_like=True, omit_defaults=True, gc=False):
    """A request's answer, with the times of its events (see ``metrics/intervals.py``)."""

    request_id: int
    outcome: OutcomeT
    admitted_at: float
    encode_s: float
    first_token_at: float
    finished_at: float
    num_steps: int
    is_placed: bool = False
    """Whether the outcome's tensors are in the block of its request, see :attr:`Work.block`."""
    batchable_at: float = 0.0
    """Of a single-pass model: when its engine took the request, for a batch; 0 for any other."""


class Failed(msgspec.Struct, tag="failed", array_like=True, omit_defaults=True, gc=False):
    """A request that failed in a worker; ``reason`` is that of a :class:`ServiceError` subclass."""

    request_id: int
    reason: str
    message: str


# --- Iterative models ---


class ImageSource(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """An image for an encode graph: uint8 pixels (height, width, 3) in row-major order, and the number of attention cells."""

    pixels: bytes
    num_cells: int


Source = list[int] | ImageSource
"""Source of a request: token ids, the end symbol included, or an image."""


class SequencePayload(msgspec.Struct, tag="sequence", array_like=True, omit_defaults=True, gc=False):
    """Source (token ids, the end symbol included, or an image) and decode options."""

    tokens: list[int]
    options: DecodeOptions = DecodeOptions()
    image: ImageSource | None = None

    @classmethod
    def of(cls, source: Source, options: DecodeOptions) -> SequencePayload:
        """Makes a payload from either type of source."""
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
        """Number of source tokens, or of an image's attention cells."""
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
        """False if the server drew the seed."""
        return self.options.sampling is None or not self.options.sampling.is_drawn


class AttentionWeights(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """Float32 weights in native byte order, of shape (num_target, num_source) or (num_target, layers, heads, num_source)."""

    shape: tuple[int, ...]
    data: bytes


class Hypothesis(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """One result of a search: its tokens (the end symbol last, if it was produced) and its normalized score."""

    tokens: list[int]
    score: float
    finish_reason: FinishReason
    attention: AttentionWeights | None = None
    copied_from: dict[int, int] = {}
    """Maps the index in ``tokens`` of each unknown symbol to the index of the source token that it attended to most."""
    coverage: float = 0.0
    """The weighted coverage penalty, which the score includes."""


class SequenceOutcome(msgspec.Struct, tag="sequence", array_like=True, omit_defaults=True, gc=False):
    """Decoded hypotheses, best first."""

    hypotheses: list[Hypothesis]

    @property
    def num_generated(self) -> int:
        """Tokens of the best hypothesis, the end symbol included."""
        return len(self.hypotheses[0].tokens)

    @property
    def num_bytes(self) -> int:
        """Size of the attention."""
        return sum(len(each.attention.data) for each in self.hypotheses if each.attention is not None)

    def as_part(self, request_id: int) -> TokensProduced:
        """Returns the best hypothesis as one part of a stream."""
        return TokensProduced(request_id, self.hypotheses[0].tokens, self.hypotheses[0].copied_from)


class TokensProduced(msgspec.Struct, tag="tokens", array_like=True, omit_defaults=True, gc=False):
    """Tokens of a streamed request as they become certain; ``copied_from`` as in :class:`Hypothesis`, indexed within this part."""

    request_id: int
    tokens: list[int]
    copied_from: dict[int, int] = {}

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def merged(self, following: TokensProduced) -> TokensProduced:
        """Returns both parts as one; the indices of the second are shifted."""
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
    """Makes an envelope as the front does, to drive an engine without a front."""
    payload = SequencePayload.of(source, options)
    return Work(request_id, model, terms, payload.num_rows, payload.num_rows * payload.num_source, payload)


SequenceWork = Work[SequencePayload]
SequenceDone = Done[SequenceOutcome]
SequenceEvent = TokensProduced | Done[SequenceOutcome] | Failed
