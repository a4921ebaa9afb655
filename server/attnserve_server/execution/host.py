# SPDX-License-Identifier: Apache-2.0
"""Memory on the CPU: NumPy arrays, bound by address. There is one binding per number of rows and requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.execution.memory import Array, Encoded, Key, Sizes, StepSession, state_dtypes, state_outputs
from attnserve_server.execution.session import NUMPY_TYPES, make_session
from attnserve_server.execution.slot_state import SlotState


class HostMemory:
    """Sessions and slots of one bundle on the CPU; with ``profile``, the steps' sessions write node times to this folder."""

    def __init__(self, bundle: Bundle, num_slots: int, profile: Path | None = None) -> None:
        variant, self._num_slots, self._sizes = bundle.variant, num_slots, Sizes(bundle)
        self._encode = make_session(bundle.folder / variant.encode.file, "cpu")
        self._encode_outputs = [tensor.name for tensor in variant.encode.outputs]
        self.steps = [StepSession(step, bundle.manifest.states, bundle.folder, "cpu", profile) for step in variant.steps]
        self.state = SlotState(bundle.manifest.states, state_dtypes(self.steps), num_slots)
        self._state_of_output = state_outputs(bundle.manifest.states)
        self._feeds: dict[tuple[str, str], Array] = {}
        self._results: dict[tuple[int, str], Array] = {}

    def source_size(self, longest: int) -> int:
        """See :class:`Memory`: sources are padded to the longest of their group."""
        return longest

    def encode(self, feeds: Mapping[str, Array]) -> Encoded:
        """Runs the encoder."""
        return dict(zip(self._encode_outputs, self._encode.run(self._encode_outputs, dict(feeds)), strict=True))

    def input_array(self, name: str, dtype: npt.DTypeLike) -> Array | None:
        """See :class:`Memory`."""
        declared = (step.inputs[name] for step in self.steps if name in step.inputs)
        return next((self._feed(each) for each in declared if len(each.axes) == 1 and NUMPY_TYPES[each.dtype] == dtype), None)

    def key(self, rows: int, requests: int) -> Key:
        """See :class:`Memory`: exactly the live rows and requests."""
        return rows, requests, self.state.buffer_parity

    def warm_rows(self) -> Iterable[int]:
        """See :class:`Memory`: every possible number of rows."""
        return range(1, self._num_slots + 1)

    def warm_sources(self) -> Iterable[tuple[int, int]]:
        """See :class:`Memory`: a few shapes."""
        return [(4, 4), (4, 16), (4, 32)]

    def bind(self, step: StepSession, key: Key) -> HostBinding:
        """See :class:`Memory`: binds views of the first rows and requests."""
        rows, requests, _ = key
        binding = step.session.io_binding()
        buffers = self.state.buffers
        feeds: dict[str, Array] = {}
        results: dict[str, Array] = {}
        for name, tensor in step.inputs.items():
            count = step.count_of(name, rows, requests)
            value = buffers[name].current[:count] if name in buffers else self._feed(tensor)[:count]
            if name not in buffers:
                feeds[name] = value
            binding.bind_input(name, "cpu", 0, value.dtype.type, list(value.shape), value.ctypes.data)
        for name, tensor in step.outputs.items():
            if name in self._state_of_output:
                state = self._state_of_output[name]
                buffer, count = buffers[state], step.count_of(state, rows, requests)
                value = (buffer.current if buffer.spare is None else buffer.spare)[:count]
            else:
                value = results[name] = self._result(step, tensor)[:rows]
            binding.bind_output(name, "cpu", 0, value.dtype.type, list(value.shape), value.ctypes.data)
        return HostBinding(step.session, binding, self.state, feeds, results)

    def _feed(self, tensor: manifest_pb2.Tensor) -> Array:
        key = (tensor.name, f"{tensor.dtype}{tensor.axes[1:]}")
        if key not in self._feeds:
            self._feeds[key] = np.zeros([self._num_slots, *self._sizes.shape(tensor)], NUMPY_TYPES[tensor.dtype])
        return self._feeds[key]

    def _result(self, step: StepSession, tensor: manifest_pb2.Tensor) -> Array:
        key = (id(step), tensor.name)
        if key not in self._results:
            self._results[key] = np.zeros([self._num_slots, *self._sizes.shape(tensor)], NUMPY_TYPES[tensor.dtype])
        return self._results[key]


class HostBinding:
    """A step graph bound to the first rows and requests."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        binding: onnxruntime.IOBinding,
        state: SlotState,
        feeds: dict[str, Array],
        results: dict[str, Array],
    ) -> None:
        self._session, self._binding, self._state, self._feeds, self._results = session, binding, state, feeds, results

    def feeds(self, rows: int, requests: int) -> Mapping[str, Array]:
        """Returns the host arrays of the small inputs."""
        return self._feeds

    def run(self, rows: int) -> Mapping[str, Array]:
        """Runs the step and flips the state buffers."""
        self._session.run_with_iobinding(self._binding)
        self._state.flip()
        return self._results
