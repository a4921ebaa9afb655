# SPDX-License-Identifier: Apache-2.0
"""Joins the answers to the sentences of one text to one answer. The answer to a single part stays unchanged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from attnserve_server.errors import InvalidRequest
from attnserve_server.request import AttentionDetail, DecodeOptions, Done, FinishReason, Hypothesis, SequenceDone
from attnserve_server.tasks.interface import Model
from attnserve_server.tasks.text import Span

MAX_JOINED_WEIGHTS = 1 << 21
"""Maximum attention weights of a joined answer (8 MiB): they grow with the square of its length, and most are zero."""


class Tokenized(Protocol):
    """A tokenized source text."""

    @property
    def tokens(self) -> list[int]:
        """Token ids, the end symbol included."""
        ...

    @property
    def pieces(self) -> Sequence[Span]:
        """One span for each token."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """A sentence or the whole text: its tokens, the index of its first character, and the gap before it."""

    source: Tokenized
    begin: int = 0
    gap: str = ""


def ranked(finished: Sequence[SequenceDone], rank: int) -> list[Hypothesis]:
    """Returns each part's hypothesis of a rank, or its best if it has fewer."""
    return [each.outcome.hypotheses[rank if rank < len(each.outcome.hypotheses) else 0] for each in finished]


def whole(finished: Sequence[SequenceDone]) -> SequenceDone:
    """Merges the parts' events to those of one request: admission and encoding of the first part, end of the last part."""
    if len(finished) == 1:
        return finished[0]
    first, last = min(finished, key=lambda each: each.admitted_at), max(finished, key=lambda each: each.finished_at)
    return Done(
        first.request_id,
        first.outcome,
        first.admitted_at,
        first.encode_s,
        min(each.first_token_at for each in finished),
        last.finished_at,
        sum(each.num_steps for each in finished),
        batchable_at=first.batchable_at,
    )


def joined_score(hypotheses: Sequence[Hypothesis], length_penalty: float) -> float:
    """Returns the score of the joined hypothesis: sum of log-probabilities over a power of the length, plus coverage.

    Sums of log-probabilities, lengths (end symbols included) and coverages are added over the parts.
    """
    if len(hypotheses) == 1:
        return hypotheses[0].score
    total, length, coverage = 0.0, 0, 0.0
    for each in hypotheses:
        total += (each.score - each.coverage) * math.pow(max(len(each.tokens), 1), length_penalty)
        length += len(each.tokens)
        coverage += each.coverage
    return total / math.pow(max(length, 1), length_penalty) + coverage


def joined_reason(hypotheses: Sequence[Hypothesis]) -> FinishReason:
    """Returns LENGTH if any part ended by it, else STOP."""
    return FinishReason.LENGTH if any(each.finish_reason is FinishReason.LENGTH for each in hypotheses) else FinishReason.STOP


def joined_attention(hypotheses: Sequence[Hypothesis], parts: Sequence[Part]) -> npt.NDArray[np.float32] | None:
    """Returns (T_tgt, T_src) or (T_tgt, layers, heads, T_src), zero between different parts; None if a part has none."""
    blocks = [
        np.frombuffer(each.attention.data, np.float32).reshape(each.attention.shape)
        for each in hypotheses
        if each.attention is not None
    ]
    if len(blocks) < len(parts):
        return None
    if len(blocks) == 1:
        return blocks[0]
    num_target, num_source = (sum(block.shape[axis] for block in blocks) for axis in (0, -1))
    result = np.zeros((num_target, *blocks[0].shape[1:-1], num_source), np.float32)
    row = column = 0
    for block in blocks:
        result[row : row + block.shape[0], ..., column : column + block.shape[-1]] = block
        row, column = row + block.shape[0], column + block.shape[-1]
    return result


def check_attention(parts: Sequence[Part], options: DecodeOptions, model: Model, num_target: int | None = None) -> None:
    """Checks the size of the attention of a joined answer.

    Args:
        parts: the sentences; a single one is always accepted.
        options: options of the request.
        model: the model, for its layers and heads.
        num_target: pieces of all hypotheses together; None before they are known, estimated by the source's.

    Raises:
        InvalidRequest: there are more than ``MAX_JOINED_WEIGHTS`` weights.
    """
    if len(parts) == 1 or options.attention is AttentionDetail.NONE:
        return
    num_source = sum(len(part.source.tokens) for part in parts)
    attention = model.manifest.attention
    num_maps = max(attention.num_layers, 1) * max(attention.num_heads, 1) if options.attention is AttentionDetail.ALL else 1
    num_rows = options.num_hypotheses * num_source if num_target is None else num_target
    if num_rows * num_source * num_maps > MAX_JOINED_WEIGHTS:
        field = "options.return_attention"
        raise InvalidRequest(
            f"{field} is too large for a text of {len(parts)} sentences: {num_rows * num_source * num_maps} weights, the limit is"
            f" {MAX_JOINED_WEIGHTS}; request less attention, or fewer sentences at once",
            field=field,
        )
