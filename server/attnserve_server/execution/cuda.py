# SPDX-License-Identifier: Apache-2.0
"""Memory on a CUDA device: all state stays on the device, and each step replays a captured CUDA graph.

A CUDA graph has fixed shapes and addresses, so the number of rows is rounded up to a bucket: a power of two, or all slots. A
bucket of n rows is bound for n requests, in grouped graphs too: every request has at least one row, so n requests always suffice,
and one graph serves any mix of beam sizes. Rows and requests beyond the live ones have padding inputs: token 0 at position 0 in an
unused row, over a source of length 1.

This module ensures the conditions of capture and replay:

* All buffers are allocated before the first capture. Every output of a captured graph is bound, because later replays overwrite
  memory that ONNX Runtime allocates itself.
* The first run for a graph id executes the step three times (two runs, then capture and replay). The runner's warm-up makes it with
  dummy rows, before the device is used otherwise.
* A captured session runs only with its bindings and from one thread; another thread would capture again.
* The encoder is not captured. Its sources are padded to the capacity, so that a row of its outputs has the shape of a state row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnxruntime

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.execution.device_run import Block, CapturedRun
from attnserve_server.execution.device_state import DeviceState
from attnserve_server.execution.device_tensor import DeviceTensor, Layout
from attnserve_server.execution.memory import Array, Encoded, Key, Sizes, StepSession, state_dtypes, state_outputs
from attnserve_server.execution.session import NUMPY_TYPES, make_session

_DEAD = {"source_length": 1}
"""Padding value by input, for rows and requests that are not live; 0 for all others."""
_EAGER = frozenset({"top_tokens", "top_log_probs"})
"""Outputs that are copied to the host after every step; others are copied on access."""


def row_buckets(num_slots: int) -> list[int]:
    """Returns the bucket sizes 1, 2, 4, ... and ``num_slots``."""
    return [*(1 << exponent for exponent in range((num_slots - 1).bit_length())), num_slots]


class CudaMemory:
    """Sessions and slots of one bundle on the device; without ``captures``, steps run as ordinary kernel launches."""

    def __init__(self, bundle: Bundle, num_slots: int, *, captures: bool = True) -> None:
        variant, states = bundle.variant, bundle.manifest.states
        self._num_slots, self._sizes = num_slots, Sizes(bundle)
        self._encode = make_session(bundle.folder / variant.encode.file, "cuda")
        self.steps = [StepSession(step, states, bundle.folder, "cuda", captures=captures) for step in variant.steps]
        self.state = DeviceState(states, state_dtypes(self.steps), num_slots, self._encode)
        self._encoded = {tensor.name: self._allocate(tensor, has_rows=True) for tensor in variant.encode.outputs}
        self._check_encoded()
        self._state_of_output = state_outputs(states)
        self._buckets = row_buckets(num_slots)
        self._bucket_of = [next(bucket for bucket in self._buckets if bucket >= rows) for rows in range(num_slots + 1)]
        self._slow = {id(step): self._allocate_slow(step) for step in self.steps}
        most = [self.layouts(step, num_slots, num_slots) for step in self.steps]
        self.inputs = self._block(max(inputs.size for inputs, _ in most))
        self._results = self._block(max(results.size for _, results in most))
        self._thread = threading.get_ident()
        self._graph_id = 0

    def source_size(self, longest: int) -> int:
        """See :class:`Memory`: sources are padded to the capacity."""
        return max(longest, self._sizes.axis("source"))

    def encode(self, feeds: Mapping[str, Array]) -> Encoded:
        """Runs the encoder; its outputs stay on the device."""
        binding = self._encode.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        count = len(next(iter(feeds.values())))
        for name, tensor in self._encoded.items():
            binding.bind_output(name, "cuda", 0, tensor.dtype.type, [count, *tensor.shape[1:]], tensor.address)
        self._encode.run_with_iobinding(binding)
        return self._encoded

    def key(self, rows: int, requests: int) -> Key:
        """See :class:`Memory`: the bucket, for both rows and requests."""
        bucket = self._bucket_of[max(rows, requests)]
        return bucket, bucket, self.state.buffer_parity

    def warm_rows(self) -> Iterable[int]:
        """See :class:`Memory`: every bucket, once per buffer parity."""
        return [bucket for bucket in self._buckets for _ in range(self.state.num_buffer_parities)]

    def warm_sources(self) -> Iterable[tuple[int, int]]:
        """See :class:`Memory`: the largest group, so that the encoder allocates its maximum of memory, then the smallest."""
        length = self._sizes.axis("source")
        return [(self._num_slots, length), (1, length)]

    def bind(self, step: StepSession, key: Key) -> CudaBinding:
        """Binds a bucket of rows and requests, with a new CUDA graph id."""
        rows, requests, _ = key
        self._graph_id += 1
        inputs, results = self.layouts(step, rows, requests)
        binding = step.session.io_binding()
        for name, tensor in step.inputs.items():
            count = step.count_of(name, rows, requests)
            dtype = NUMPY_TYPES[tensor.dtype]
            in_block = name in inputs.offsets
            address = self.inputs.address + inputs.offsets[name] if in_block else self.state.buffers[name].current.address
            binding.bind_input(name, "cuda", 0, dtype.type, [count, *self._sizes.shape(tensor)], address)
        for name, tensor in step.outputs.items():
            state = self._state_of_output.get(name)
            count = rows if state is None else step.count_of(state, rows, requests)
            address = self._address_of_output(step, name, results)
            binding.bind_output(name, "cuda", 0, NUMPY_TYPES[tensor.dtype].type, [count, *self._sizes.shape(tensor)], address)
        blocks = (Block(inputs, self.inputs), Block(results, self._results))
        slow = {name: tensor.first(rows) for name, tensor in self._slow[id(step)].items()}
        return CudaBinding(step, CapturedRun(step.session, binding, self._graph_id, self._thread), self.state, blocks, slow)

    def _address_of_output(self, step: StepSession, name: str, results: Layout) -> int:
        state = self._state_of_output.get(name)
        if state is not None:
            buffer = self.state.buffers[state]
            return (buffer.spare or buffer.current).address
        return self._results.address + results.offsets[name] if name in results.offsets else self._slow[id(step)][name].address

    def layouts(self, step: StepSession, rows: int, requests: int) -> tuple[Layout, Layout]:
        """Returns the layouts of a bucket's small inputs and of the outputs that are copied after every step."""
        inputs = {
            name: ([step.count_of(name, rows, requests), *self._sizes.shape(tensor)], NUMPY_TYPES[tensor.dtype])
            for name, tensor in step.inputs.items()
            if name not in self.state.buffers
        }
        results = {
            name: ([rows, *self._sizes.shape(tensor)], NUMPY_TYPES[tensor.dtype])
            for name, tensor in step.outputs.items()
            if name in _EAGER
        }
        return Layout(inputs), Layout(results)

    def _allocate(self, tensor: manifest_pb2.Tensor, *, has_rows: bool = False) -> DeviceTensor:
        shape = [self._num_slots, *self._sizes.shape(tensor)]
        return DeviceTensor(self._encode, shape, NUMPY_TYPES[tensor.dtype], has_rows=has_rows)

    def _allocate_slow(self, step: StepSession) -> dict[str, DeviceTensor]:
        small = _EAGER | set(self._state_of_output)
        return {name: self._allocate(tensor) for name, tensor in step.outputs.items() if name not in small}

    def _block(self, size: int) -> DeviceTensor:
        return DeviceTensor(self._encode, [size], np.dtype(np.uint8))

    def _check_encoded(self) -> None:
        for name, buffer in self.state.buffers.items():
            encoded = self._encoded.get(buffer.declared.encode_output)
            if encoded is not None and (encoded.shape[1:], encoded.dtype) != (buffer.current.shape[1:], buffer.current.dtype):
                raise RuntimeError(f"state {name} holds {buffer.current.shape[1:]}, the encoder gives {encoded.shape[1:]}")


class CudaBinding:
    """A step graph bound to a bucket of rows and requests."""

    def __init__(
        self,
        step: StepSession,
        captured: CapturedRun,
        state: DeviceState,
        blocks: tuple[Block, Block],
        slow: dict[str, onnxruntime.OrtValue],
    ) -> None:
        self._step, self._captured, self._state, self._slow = step, captured, state, slow
        self.inputs, self._results = blocks

    def feeds(self, rows: int, requests: int) -> Mapping[str, Array]:
        """Returns the live part of the host inputs; fills the rest with padding."""
        live: dict[str, Array] = {}
        for name, view in self.inputs.views.items():
            count = self._step.count_of(name, rows, requests)
            view[count:] = _DEAD.get(name, 0)
            live[name] = view[:count]
        return live

    def run(self, rows: int) -> Mapping[str, Array]:
        """Copies the inputs to the device, replays the graph, copies the results back."""
        self.inputs.upload()
        self._captured.run()
        if self._results.views:
            self._results.download()
        self._state.flip()
        return _Outputs({name: view[:rows] for name, view in self._results.views.items()}, self._slow, rows)


class _Outputs(Mapping[str, Array]):
    """Outputs of a step; those not copied back with it are copied once, on first access."""

    def __init__(self, read: dict[str, Array], slow: Mapping[str, onnxruntime.OrtValue], rows: int) -> None:
        self._read, self._slow, self._rows = read, slow, rows

    def __getitem__(self, name: str) -> Array:
        if name not in self._read:
            self._read[name] = self._slow[name].numpy()[: self._rows]
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._read or name in self._slow

    def __iter__(self) -> Iterator[str]:
        return iter({**self._read, **self._slow})

    def __len__(self) -> int:
        return len({**self._read, **self._slow})
