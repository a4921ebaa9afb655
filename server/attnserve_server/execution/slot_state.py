# SPDX-License-Identifier: Apache-2.0
"""The slots: buffers of all declared state, and the few things that are ever done to a row or a request of them.

Live requests are a prefix of the request slots, live rows a prefix of the row slots; the runner binds views of those prefixes,
which are contiguous. Nothing here knows a model: what exists, how long it is and how it grows is the manifest's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attnserve.v1 import manifest_pb2

Array = npt.NDArray[np.generic]


@dataclass(slots=True)
class Buffer:
    """One state tensor for all slots; ``spare`` receives the step's output where it is not written in place."""

    declared: manifest_pb2.State
    current: Array
    spare: Array | None
    growing: int | None
    """Index of the axis along which it grows."""

    def first(self, slots: Any, length: int) -> Array:
        """Some slots, or one; where the state grows only the first ``length`` entries. A view if ``slots`` is a number."""
        place = (slots,) if self.growing is None else (slots, *[slice(None)] * (self.growing - 1), slice(length))
        found: Array = self.current[place]
        return found


class SlotState:
    """State of ``num_slots`` requests and ``num_slots`` rows.

    What grows in place in every row and has the same shape lies together: a row of all of it is copied at once.

    Args:
        states: the manifest's declarations.
        dtypes: element type of each state, from the step graphs' inputs.
        num_slots: capacity, both in requests and in rows.
    """

    def __init__(self, states: Sequence[manifest_pb2.State], dtypes: Mapping[str, np.dtype[Any]], num_slots: int) -> None:
        self.buffers = {state.name: _make_buffer(state, dtypes[state.name], num_slots) for state in states}
        self._of_request = [each for each in self.buffers.values() if each.declared.scope == manifest_pb2.SCOPE_REQUEST]
        self._of_row = [each for each in self.buffers.values() if each.declared.scope == manifest_pb2.SCOPE_HYPOTHESIS]
        self._pools = _pool([each for each in self._of_row if each.growing == 2 and each.spare is None])
        pooled = {id(each) for _, members in self._pools for each in members}
        self._single = [each for each in self._of_row if id(each) not in pooled]
        self._flipping = [each for each in self.buffers.values() if each.spare is not None]
        self.buffer_parity = 0
        """Changes with each flip, back and forth."""

    def insert(self, requests: Sequence[int], rows: Sequence[int], encoded: Mapping[str, Array]) -> None:
        """Gives request slots and row slots the first values of new requests.

        Args:
            requests: a request slot for each.
            rows: the row slot of each one's first hypothesis.
            encoded: the encode graph's outputs by name, (B, ...), of these requests in their order.
        """
        for buffers, slots in ((self._of_request, requests), (self._of_row, rows)):
            for buffer in buffers:
                name = buffer.declared.encode_output
                if name:
                    values = encoded[name]
                    filled: tuple[Any, ...] = (list(slots), *(slice(size) for size in values.shape[1:]))
                    buffer.current[filled] = values
                elif buffer.growing is None:
                    buffer.current[list(slots)] = 0

    def move_request(self, source: int, target: int, length: int) -> None:
        """Moves the state of a request to another slot; of growing state the first ``length`` entries."""
        for buffer in self._of_request:
            buffer.first(target, length)[...] = buffer.first(source, length)

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copies rows, none of which is both source and target; of growing state the first ``length`` entries."""
        for pool, _ in self._pools:
            for source, target in zip(sources, targets, strict=True):
                pool[:, target, :, :length] = pool[:, source, :, :length]
        for buffer in self._single if sources else ():
            if buffer.growing is None:
                buffer.current[list(targets)] = buffer.current[list(sources)]
            else:
                for source, target in zip(sources, targets, strict=True):
                    buffer.first(target, length)[...] = buffer.first(source, length)

    def flip(self) -> None:
        """After a step: what was written beside becomes current."""
        for buffer in self._flipping:
            if buffer.spare is not None:
                buffer.current, buffer.spare = buffer.spare, buffer.current
        if self._flipping:
            self.buffer_parity ^= 1


def _make_buffer(state: manifest_pb2.State, dtype: np.dtype[Any], num_slots: int) -> Buffer:
    shape = [num_slots] + [state.capacity if axis == state.growing_axis else int(axis) for axis in state.axes[1:]]
    spare = np.zeros(shape, dtype) if state.step_output and not state.in_place else None
    growing = list(state.axes).index(state.growing_axis) if state.growing_axis else None
    return Buffer(state, np.zeros(shape, dtype), spare, growing)


def _pool(buffers: Sequence[Buffer]) -> list[tuple[Array, list[Buffer]]]:
    """Buffers of the same shape and type become views of one array, (buffers, slots, ...)."""
    groups: dict[tuple[Any, ...], list[Buffer]] = {}
    for buffer in buffers:
        groups.setdefault((buffer.current.dtype, buffer.current.shape), []).append(buffer)
    pools = []
    for (dtype, shape), members in groups.items():
        pool = np.zeros((len(members), *shape), dtype)
        for index, buffer in enumerate(members):
            buffer.current = pool[index]
        pools.append((pool, members))
    return pools
