# SPDX-License-Identifier: Apache-2.0
"""The slots in host memory: buffers of all declared state, and the operations on a row or a request.

Live requests are a prefix of the request slots, live rows a prefix of the row slots; bindings are views of those prefixes, which
are contiguous. Nothing here depends on a model: the manifest declares the states, their shapes and their growing axes.
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
    """One state tensor for all slots; ``spare`` receives the step's output if it is not written in place."""

    declared: manifest_pb2.State
    current: Array
    spare: Array | None
    growing: int | None
    """Index of the growing axis; None for a fixed shape."""

    def first(self, slots: Any, length: int) -> Array:
        """Returns the state of some slots, the first ``length`` entries if it grows; a view if ``slots`` is a number."""
        place = (slots,) if self.growing is None else (slots, *[slice(None)] * (self.growing - 1), slice(length))
        found: Array = self.current[place]
        return found


class SlotState:
    """State of ``num_slots`` requests and ``num_slots`` rows.

    States that grow in place and have the same owner and shape share one array, so that one copy moves a row, or a request, of all
    of them.

    Args:
        states: the manifest's declarations.
        dtypes: element type of each state, from the step graphs' inputs.
        num_slots: capacity, both in requests and in rows.
    """

    def __init__(self, states: Sequence[manifest_pb2.State], dtypes: Mapping[str, np.dtype[Any]], num_slots: int) -> None:
        self.buffers = {state.name: _make_buffer(state, dtypes[state.name], num_slots) for state in states}
        self._of_request = [each for each in self.buffers.values() if each.declared.scope == manifest_pb2.SCOPE_REQUEST]
        self._of_row = [each for each in self.buffers.values() if each.declared.scope == manifest_pb2.SCOPE_HYPOTHESIS]
        self._row_pools, self._request_pools = (
            _pool([each for each in owned if each.growing == 2 and each.spare is None])
            for owned in (self._of_row, self._of_request)
        )
        pooled = {id(each) for _, members in (*self._row_pools, *self._request_pools) for each in members}
        self._single_rows = [each for each in self._of_row if id(each) not in pooled]
        self._single_requests = [each for each in self._of_request if id(each) not in pooled]
        self._encoded = [
            (each, each.declared.encode_output, is_row)
            for owned, is_row in ((self._of_request, False), (self._of_row, True))
            for each in owned
        ]
        self._regions: dict[tuple[int, ...], tuple[slice, ...]] = {}
        self._flipping = [each for each in self.buffers.values() if each.spare is not None]
        self.buffer_parity = 0
        """0 or 1, toggled by each flip."""

    def insert(self, requests: Sequence[int], rows: Sequence[int], encoded: Mapping[str, Array]) -> None:
        """Writes the initial state of new requests.

        Args:
            requests: request slot of each.
            rows: row slot of the first hypothesis of each.
            encoded: the encode graph's outputs by name, (B, ...), in the same order.
        """
        for buffer, name, is_row in self._encoded:
            slots = rows if is_row else requests
            if name:
                values = encoded[name]
                is_one = len(slots) == 1  # a plain index takes a third of the time of a list
                place: Any = (slots[0] if is_one else list(slots), *self._region(values.shape[1:]))
                buffer.current[place] = values[0] if is_one else values
            elif buffer.growing is None:
                buffer.current[list(slots)] = 0

    def _region(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Returns the index of the first entries of every axis."""
        if shape not in self._regions:
            self._regions[shape] = tuple(slice(size) for size in shape)
        return self._regions[shape]

    def move_request(self, source: int, target: int, length: int) -> None:
        """Moves a request's state to another slot; growing state is copied up to ``length`` entries."""
        for pool, _ in self._request_pools:
            pool[:, target, :, :length] = pool[:, source, :, :length]
        for buffer in self._single_requests:
            buffer.first(target, length)[...] = buffer.first(source, length)

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copies rows, none both source and target; growing state is copied up to ``length`` entries."""
        for pool, _ in self._row_pools:
            for source, target in zip(sources, targets, strict=True):
                pool[:, target, :, :length] = pool[:, source, :, :length]
        for buffer in self._single_rows if sources else ():
            if buffer.growing is None:
                buffer.current[list(targets)] = buffer.current[list(sources)]
            else:
                for source, target in zip(sources, targets, strict=True):
                    buffer.first(target, length)[...] = buffer.first(source, length)

    def flip(self) -> None:
        """Swaps the two buffers after a step, so that the output becomes current."""
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
    """Makes buffers of the same shape and type views of one array, (buffers, slots, ...)."""
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
