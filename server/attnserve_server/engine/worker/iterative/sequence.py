# SPDX-License-Identifier: Apache-2.0
"""The decoding state of one request in an engine, from its submission to its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from attnserve_server.decoding.search import Search
from attnserve_server.request import SequencePayload, SequenceWork
from attnserve_server.scheduling.scheduler import Waiting


@dataclass(slots=True, eq=False)
class Decoding(Waiting):
    """Decoding state of one request, and its queue entry (:class:`Waiting`); all but ``request`` is set at admission."""

    request: SequenceWork = field(kw_only=True)
    search: Search = field(init=False)
    slot: int = 0
    rows: list[int] = field(default_factory=list)
    """Row slot of each live hypothesis."""
    admitted_at: float = 0.0
    keeps_attention: bool = False
    """Whether every token's attention is kept: for the answer, the coverage penalty, or unknown symbols."""
    can_be_vectorized: bool = False
    """Whether it is eligible for vectorized search: no rules, no attention, and a beam is not streamed."""
    block_rows: int = 0
    """K, if it has K rows from its admission on and a step graph takes blocks of K rows; else 0."""
    needs_scores: bool = True
    """Whether it needs log-probabilities, for its score or its search, and not only the best token of each step."""
    is_vectorized: bool = False
    """Whether :class:`VectorizedSearches` holds its hypotheses now, instead of ``search``."""
    encode_s: float = 0.0
    first_token_at: float = 0.0
    num_steps: int = 0
    num_sent: int = 0
    """Number of tokens that a stream has sent."""
    needs_alignment: bool = False
    """Whether it was restarted to keep attention, by which unknown symbols are replaced."""

    @classmethod
    def of(cls, request: SequenceWork, queued_at: float = 0.0) -> Decoding:
        """Makes the state of a request to be queued."""
        payload = request.payload
        return cls(request.request_id, payload.num_rows, payload.num_source, request.terms.deadline, queued_at, request=request)

    @property
    def payload(self) -> SequencePayload:
        """Source and options of the request."""
        return self.request.payload


@dataclass(frozen=True, slots=True)
class Copies:
    """Row copies to make after a step; no row is both source and target."""

    sources: list[int]
    targets: list[int]
