# SPDX-License-Identifier: Apache-2.0
"""One request's decoding, as the running batch keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from attnserve_server.decoding.search import Search
from attnserve_server.request import SequenceRequest


@dataclass(slots=True)
class Decoding:
    """One request's decoding."""

    request: SequenceRequest
    search: Search
    slot: int
    rows: list[int]
    """Row slot of each live hypothesis."""
    admitted_at: float
    keeps_attention: bool
    """Whether every token's attention is kept: it was asked for, or something is made from it."""
    may_be_plain: bool
    """Whether it needs nothing but the most probable tokens of each step, and nobody asks before it ends."""
    needs_scores: bool = True
    """Whether it needs more than the best token of each step: log-probabilities, for its score or to choose by."""
    is_plain: bool = False
    """Whether its hypotheses are with :class:`PlainSearches` now, and not in ``search``."""
    encode_s: float = 0.0
    first_token_at: float = 0.0
    num_steps: int = 0


@dataclass(frozen=True, slots=True)
class Copies:
    """Rows whose state is to be copied after a step; none is both source and target."""

    sources: list[int]
    targets: list[int]
