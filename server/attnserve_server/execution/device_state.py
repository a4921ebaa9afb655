# SPDX-License-Identifier: Apache-2.0
"""The slots in device memory: what ``slot_state.py`` is for the CPU, with whole rows copied from device to device.

A row is contiguous, and its length is in nobody's way: what lies beyond it is never read. So no copy depends on how far a
hypothesis has come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from attnserve.v1 import manifest_pb2
from attnserve_server.execution.device_tensor import Array, DeviceTensor
from attnserve_server.execution.memory import Encoded


@dataclass(slots=True)
class DeviceBuffer:
    """One state tensor for all slots; ``spare`` receives the step's output where it is not written in place."""

    declared: manifest_pb2.State
    current: DeviceTensor
    spare: DeviceTensor | None
    zeros: Array | None
    """The first value of a row that neither grows nor comes from the encoder."""


class DeviceState:
    """State of ``num_slots`` requests and ``num_slots`` rows on the device, and of one row more, which is scratch.

    Args:
        states: the manifest's declarations.
        dtypes: element type of each state, from the step graphs' inputs.
        num_slots: capacity, both in requests and in rows.
        session: any session of the device.
    """

    def __init__(
        self,
        states: Sequence[manifest_pb2.State],
        dtypes: Mapping[str, np.dtype[Any]],
        num_slots: int,
        session: onnxruntime.InferenceSession,
    ) -> None:
        self.buffers = {state.name: _make_buffer(state, dtypes[state.name], num_slots, session) for state in states}
        self._of_request = [each for each in self.buffers.values() if each.declared.scope == manifest_pb2.SCOPE_REQUEST]
        self._of_row = [each for each in self.buffers.values() if each.declared.scope == manifest_pb2.SCOPE_HYPOTHESIS]
        self._flipping = [each for each in self.buffers.values() if each.spare is not None]
        self._scratch = num_slots
        self.num_orientations = 2 if self._flipping else 1
        self.orientation = 0
        """Changes with each flip, back and forth."""

    def insert(self, request: int, row: int, encoded: Encoded, index: int) -> None:
        """Gives a request slot and a row slot the first values of a new request, the ``index``-th of an encoded group."""
        for buffers, slot in ((self._of_request, request), (self._of_row, row)):
            for buffer in buffers:
                name = buffer.declared.encode_output
                if name:
                    buffer.current.rows[slot].update_inplace(encoded[name].rows[index])
                elif buffer.zeros is not None:
                    buffer.current.rows[slot].update_inplace(buffer.zeros)

    def move_request(self, source: int, target: int) -> None:
        """Moves the state of a request to another slot."""
        for buffer in self._of_request:
            buffer.current.rows[target].update_inplace(buffer.current.rows[source])

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copies rows, all read before any is written. Targets are distinct."""
        plan = order_copies(sources, targets, self._scratch)
        for buffer in self._of_row:
            for source, target in plan:
                buffer.current.rows[target].update_inplace(buffer.current.rows[source])

    def flip(self) -> None:
        """After a step: what was written beside becomes current."""
        for buffer in self._flipping:
            if buffer.spare is not None:
                buffer.current, buffer.spare = buffer.spare, buffer.current
        if self._flipping:
            self.orientation ^= 1


def order_copies(sources: Sequence[int], targets: Sequence[int], scratch: int) -> list[tuple[int, int]]:
    """An order of single copies (source, target) that does what copying all at once would; cycles go through ``scratch``."""
    pending = {target: source for source, target in zip(sources, targets, strict=True) if source != target}
    readers = Counter(pending.values())
    ready = [target for target in pending if not readers[target]]
    plan = []
    while pending:
        if not ready:  # only cycles are left, whose rows have one reader each
            saved = next(iter(pending))
            reader = next(target for target, source in pending.items() if source == saved)
            plan.append((saved, scratch))
            pending[reader] = scratch
            readers[saved], readers[scratch] = 0, 1
            ready.append(saved)
        target = ready.pop()
        source = pending.pop(target)
        plan.append((source, target))
        readers[source] -= 1
        if source in pending and not readers[source]:
            ready.append(source)
    return plan


def _make_buffer(
    state: manifest_pb2.State, dtype: np.dtype[Any], num_slots: int, session: onnxruntime.InferenceSession
) -> DeviceBuffer:
    shape = [state.capacity if axis == state.growing_axis else int(axis) for axis in state.axes[1:]]
    current = DeviceTensor(session, [num_slots + 1, *shape], dtype, has_rows=True)
    spare = (
        DeviceTensor(session, [num_slots + 1, *shape], dtype, has_rows=True) if state.step_output and not state.in_place else None
    )
    zeros = None if state.encode_output or state.growing_axis else np.zeros(shape, dtype)
    return DeviceBuffer(state, current, spare, zeros)
