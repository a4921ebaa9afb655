# SPDX-License-Identifier: Apache-2.0
"""One request's decoding: everything that an engine knows of it, from its submission to its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from attnserve_server.decoding.search import Search
from attnserve_server.request import SequencePayload, SequenceWork
from attnserve_server.scheduling.scheduler import Waiting


@dataclass(slots=True, eq=False)
class Decoding(Waiting):
    """One request's decoding, with its place in the queue (:class:`Waiting`); all but ``request`` counts from its admission."""

    request: SequenceWork = field(kw_only=True)
    search: Search = field(init=False)
    slot: int = 0
    rows: list[int] = field(default_factory=list)
    """Row slot of each live hypothesis."""
    admitted_at: float = 0.0
    keeps_attention: bool = False
    """Whether every token's attention is kept: it was asked for, or something is made from it."""
    can_be_vectorized: bool = False
    """Whether it needs nothing but the most probable tokens of each step, and nothing of it is wanted before it ends."""
    needs_scores: bool = True
    """Whether it needs more than the best token of each step: log-probabilities, for its score or to choose by."""
    is_vectorized: bool = False
    """Whether its hypotheses are with :class:`VectorizedSearches` now, and not in ``search``."""
    encode_s: float = 0.0
    first_token_at: float = 0.0
    num_steps: int = 0
    num_sent: int = 0
    """Tokens that were reported of a stream."""
    needs_alignment: bool = False
    """Whether its attention is kept, though it was not asked for, to say what stands for its unknown symbols."""

    @classmethod
    def of(cls, request: SequenceWork, queued_at: float = 0.0) -> Decoding:
        """A request that is to be queued."""
        payload = request.payload
        return cls(request.request_id, payload.num_rows, payload.num_source, request.terms.deadline, queued_at, request=request)

    @property
    def payload(self) -> SequencePayload:
        """What is to be decoded, and how."""
        return self.request.payload


@dataclass(frozen=True, slots=True)
class Copies:
    """Rows whose state is to be copied after a step; none is both source and target."""

    sources: list[int]
    targets: list[int]
