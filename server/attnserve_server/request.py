# SPDX-License-Identifier: Apache-2.0
"""What a request is inside the server: the types that cross from the front to a worker and back.

They are msgspec structs, so that the local socket carries them as MessagePack without a schema beside these classes.
Times are seconds of the monotonic clock, which all processes of one machine share.
"""

from __future__ import annotations

import enum

import msgspec


class AttentionDetail(enum.IntEnum):
    """How much attention the answer carries."""

    NONE = 0
    MEAN = 1
    ALL = 2


class FinishReason(enum.IntEnum):
    """Why a hypothesis ended."""

    STOP = 1
    LENGTH = 2


class DecodeOptions(msgspec.Struct, frozen=True):
    """Validated options of one request; ``max_tokens`` does not count the end symbol."""

    beam_size: int = 1
    num_hypotheses: int = 1
    length_penalty: float = 1.0
    max_tokens: int = 128
    attention: AttentionDetail = AttentionDetail.NONE


class SequenceRequest(msgspec.Struct):
    """One request as the engine sees it: source token ids, their end symbol included, and options."""

    request_id: int
    tokens: list[int]
    options: DecodeOptions = DecodeOptions()
    deadline: float | None = None
    is_streamed: bool = False


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


class TokensProduced(msgspec.Struct, tag="tokens"):
    """Tokens of a streamed request, as they come."""

    request_id: int
    tokens: list[int]


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
