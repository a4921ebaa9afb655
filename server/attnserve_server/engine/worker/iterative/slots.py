# SPDX-License-Identifier: Apache-2.0
"""Numbered slots and the sequences that own them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from attnserve_server.engine.worker.iterative.sequence import Decoding

Move = tuple[int, int]
"""Source and target of a move between slots."""


class Slots:
    """Assigns numbered slots to sequences, the lowest free one first. A freed slot is a hole until it is filled or compacted."""

    def __init__(self) -> None:
        self.owners: list[Decoding | None] = []
        """Owner of each slot; None for a hole."""
        self._holes: list[int] = []  # a heap

    @property
    def num_owned(self) -> int:
        """Number of slots that have an owner."""
        return len(self.owners) - len(self._holes)

    @property
    def has_holes(self) -> bool:
        """Whether the owned slots are no prefix of all slots."""
        return bool(self._holes)

    def take(self, sequence: Decoding) -> int:
        """Assigns the lowest hole, or a new slot at the end."""
        if not self._holes:
            self.owners.append(sequence)
            return len(self.owners) - 1
        slot = heapq.heappop(self._holes)
        self.owners[slot] = sequence
        return slot

    def free(self, slots: Iterable[int]) -> None:
        """Makes holes of slots."""
        for slot in slots:
            self.owners[slot] = None
            heapq.heappush(self._holes, slot)

    def clear(self) -> None:
        """Frees all slots."""
        del self.owners[:], self._holes[:]

    def compact(self) -> list[Move]:
        """Moves the last owned slots into the holes, so that owned slots are a prefix; returns the moves.

        No slot is both source and target.
        """
        keep = self.num_owned
        movers = [slot for slot in range(keep, len(self.owners)) if self.owners[slot] is not None]
        moves = list(zip(movers, sorted(slot for slot in self._holes if slot < keep), strict=True))
        for source, target in moves:
            self.owners[target] = self.owners[source]
        del self.owners[keep:], self._holes[:]
        return moves
