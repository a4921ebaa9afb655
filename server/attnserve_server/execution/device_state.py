# SPDX-License-Identifier: Apache-2.0
"""The slots in device memory: the counterpart of ``slot_state.py``, with whole rows copied from device to device.

Rows are contiguous. A copy moves the whole row, whatever the length of its hypothesis, because entries beyond the length are never
read.
"""

from __future__ import annotations

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
    """One state tensor for all slots; ``spare`` receives the step's output if it is not written in place."""

    declared: manifest_pb2.State
    current: DeviceTensor
    spare: DeviceTensor | None
    zeros: Array | None
    """Initial value of a row that neither grows nor comes from the encoder; None for others."""


class DeviceState:
    """State of ``num_slots`` requests and ``num_slots`` rows on the device.

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
        self.num_buffer_parities = 2 if self._flipping else 1
        self.buffer_parity = 0
        """0 or 1, toggled by each flip."""

    def insert(self, requests: Sequence[int], rows: Sequence[int], encoded: Encoded) -> None:
        """See :class:`~attnserve_server.execution.memory.State`."""
        for buffers, slots in ((self._of_request, requests), (self._of_row, rows)):
            for buffer in buffers:
                name = buffer.declared.encode_output
                for index, slot in enumerate(slots):
                    if name:
                        buffer.current.rows[slot].update_inplace(encoded[name].rows[index])
                    elif buffer.zeros is not None:
                        buffer.current.rows[slot].update_inplace(buffer.zeros)

    def move_request(self, source: int, target: int, length: int) -> None:
        """Moves a request's state to another slot."""
        for buffer in self._of_request:
            buffer.current.rows[target].update_inplace(buffer.current.rows[source])

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copies rows, none of which is both source and target."""
        for buffer in self._of_row:
            for source, target in zip(sources, targets, strict=True):
                buffer.current.rows[target].update_inplace(buffer.current.rows[source])

    def flip(self) -> None:
        """Swaps the two buffers after a step, so that the output becomes current."""
        for buffer in self._flipping:
            if buffer.spare is not None:
                buffer.current, buffer.spare = buffer.spare, buffer.current
        if self._flipping:
            self.buffer_parity ^= 1


def _make_buffer(
    state: manifest_pb2.State, dtype: np.dtype[Any], num_slots: int, session: onnxruntime.InferenceSession
) -> DeviceBuffer:
    shape = [state.capacity if axis == state.growing_axis else int(axis) for axis in state.axes[1:]]
    current = DeviceTensor(session, [num_slots, *shape], dtype, has_rows=True)
    spare = DeviceTensor(session, [num_slots, *shape], dtype, has_rows=True) if state.step_output and not state.in_place else None
    zeros = None if state.encode_output or state.growing_axis else np.zeros(shape, dtype)
    return DeviceBuffer(state, current, spare, zeros)
