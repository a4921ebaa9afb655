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


class SlotState:
    """State of ``num_slots`` requests and ``num_slots`` rows.

    Args:
        states: the manifest's declarations.
        dtypes: element type of each state, from the step graphs' inputs.
        num_slots: capacity, both in requests and in rows.
    """

    def __init__(self, states: Sequence[manifest_pb2.State], dtypes: Mapping[str, np.dtype[Any]], num_slots: int) -> None:
        self.buffers = {state.name: _make_buffer(state, dtypes[state.name], num_slots) for state in states}
        self._of_request = [each for each in self.buffers.values() if each.declared.scope == manifest_pb2.SCOPE_REQUEST]
        self._of_row = [each for each in self.buffers.values() if each.declared.scope == manifest_pb2.SCOPE_HYPOTHESIS]
        self._flipping = [each for each in self.buffers.values() if each.spare is not None]
        self.orientation = 0
        """Changes with each flip, back and forth."""

    def insert(self, request: int, row: int, encoded: Mapping[str, Array], index: int) -> None:
        """Gives request slot ``request`` and row slot ``row`` the first values of a new request.

        Args:
            request: request slot.
            row: row slot of its first hypothesis.
            encoded: the encode graph's outputs by name, (B, ...).
            index: which of the B it is.
        """
        for buffers, slot in ((self._of_request, request), (self._of_row, row)):
            for buffer in buffers:
                name = buffer.declared.encode_output
                if name:
                    value = encoded[name][index]
                    filled: tuple[int | slice, ...] = (slot, *(slice(0, size) for size in value.shape))
                    buffer.current[filled] = value
                elif buffer.growing is None:
                    buffer.current[slot] = 0

    def move_request(self, source: int, target: int) -> None:
        """Moves the state of a request to another slot."""
        for buffer in self._of_request:
            buffer.current[target] = buffer.current[source]

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copies rows, all read before any is written; of growing state the first ``length`` entries."""
        if not sources:
            return
        for buffer in self._of_row:
            if buffer.growing is None:
                buffer.current[targets] = buffer.current[sources]
            else:
                view = np.moveaxis(buffer.current, buffer.growing, 1)[:, :length]
                view[targets] = view[sources]

    def flip(self) -> None:
        """After a step: what was written beside becomes current."""
        for buffer in self._flipping:
            if buffer.spare is not None:
                buffer.current, buffer.spare = buffer.spare, buffer.current
        if self._flipping:
            self.orientation ^= 1


def _make_buffer(state: manifest_pb2.State, dtype: np.dtype[Any], num_slots: int) -> Buffer:
    shape = [num_slots] + [state.capacity if axis == state.growing_axis else int(axis) for axis in state.axes[1:]]
    spare = np.zeros(shape, dtype) if state.step_output and not state.in_place else None
    growing = list(state.axes).index(state.growing_axis) if state.growing_axis else None
    return Buffer(state, np.zeros(shape, dtype), spare, growing)
