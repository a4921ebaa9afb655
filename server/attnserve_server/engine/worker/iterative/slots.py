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


class RowSlots(Slots):
    """Slots of rows, of which a sequence may own several; a move changes the sequence's ``rows``.

    Args:
        num_slots: number of slots that exist.
    """

    def __init__(self, num_slots: int) -> None:
        super().__init__()
        self._num_slots = num_slots

    def take_block(self, sequence: Decoding, width: int) -> list[int]:
        """Assigns ``width`` slots: those of the block that belongs to the sequence's request slot, if they are free; else any."""
        block = range(sequence.slot * width, (sequence.slot + 1) * width)
        end = len(self.owners)
        if block.start > end or block.stop > self._num_slots or any(self.owners[slot] is not None for slot in block if slot < end):
            return [self.take(sequence) for _ in block]
        if self._holes:
            self._holes = [slot for slot in self._holes if slot not in block]
            heapq.heapify(self._holes)
        self.owners.extend([None] * (block.stop - end))
        self.owners[block.start : block.stop] = [sequence] * width
        return list(block)

    def compact(self) -> list[Move]:
        """See :class:`Slots`."""
        moves = super().compact()
        for source, target in moves:
            self._renumber(self.owners[target], source, target)
        return moves

    def align(self, sequences: Iterable[Decoding], width: int) -> list[list[Move]] | None:
        """Moves slots so that each sequence owns the block of its request slot: slots r * width to (r + 1) * width - 1.

        Args:
            sequences: all owners, with ``width`` slots each; their request slots are a prefix.
            width: of a block.

        Returns:
            Groups of moves, to be made one after the other, in which no slot is both source and target. None if no slot is free to
            change places by; nothing is moved then.
        """
        pending: dict[int, int] = {}
        for sequence in sequences:
            block = range(sequence.slot * width, (sequence.slot + 1) * width)
            misplaced = [slot for slot in sequence.rows if slot not in block]
            if misplaced:
                pending.update(zip(misplaced, [slot for slot in block if slot not in sequence.rows], strict=True))
        groups = self._ordered(pending) if pending else []
        if groups is None:
            return None
        for source, target in (move for group in groups for move in group):
            self.owners.extend([None] * (target + 1 - len(self.owners)))
            self.owners[target], self.owners[source] = self.owners[source], None
            self._renumber(self.owners[target], source, target)
        num_owned = sum(owner is not None for owner in self.owners) if groups or self._holes else len(self.owners)
        del self.owners[num_owned:], self._holes[:]
        return groups

    def _ordered(self, pending: dict[int, int]) -> list[list[Move]] | None:
        """Divides moves into groups whose targets are free when the group is made; a cycle goes over a free slot."""
        taken, groups = {slot for slot, owner in enumerate(self.owners) if owner is not None}, list[list[Move]]()
        while pending:
            group = [(source, target) for source, target in pending.items() if target not in taken]
            if not group:
                source, spare = next(iter(pending)), next((slot for slot in range(self._num_slots) if slot not in taken), None)
                if spare is None:
                    return None
                group, pending[spare] = [(source, spare)], pending[source]
            for source, target in group:
                del pending[source]
                taken.remove(source)
                taken.add(target)
            groups.append(group)
        return groups

    @staticmethod
    def _renumber(sequence: Decoding | None, source: int, target: int) -> None:
        assert sequence is not None, "only owned slots move"
        sequence.rows[sequence.rows.index(source)] = target
