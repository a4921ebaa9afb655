# SPDX-License-Identifier: Apache-2.0
"""Runs the graphs of an iterative model: encode a group of sources, then one step of all live rows, state in place.

The only users of ONNX Runtime are this file and its neighbours. Every binding (a graph, a number of rows, a number of requests)
is made once and kept: rebinding costs up to half of a small step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.execution.session import NUMPY_TYPES, make_session
from attnserve_server.execution.slot_state import SlotState

Array = npt.NDArray[np.generic]
_ROUTING = {"request_of_row", "rows_of_request", "place_of_row"}
log = logging.getLogger(__name__)


@dataclass(slots=True)
class StepInputs:
    """Layout of the live rows: lists of one entry a row (or a request), in slot order."""

    tokens: Sequence[int]
    positions: Sequence[int]
    request_of_row: Sequence[int]
    rows_of_request: Sequence[Sequence[int]]
    source_lengths: Sequence[int]
    wants_attention: bool


class StepOutputs:
    """What a step gave for each row. Arrays are views of the runner's buffers: valid until the next step."""

    def __init__(self, arrays: Mapping[str, Array], attention: Array | None) -> None:
        self._arrays, self.attention = arrays, attention

    def best(self) -> tuple[list[int], list[float]]:
        """The most probable token of every row and its log-probability."""
        if "top_tokens" in self._arrays:
            return self._arrays["top_tokens"][:, 0].tolist(), self._arrays["top_log_probs"][:, 0].tolist()
        scores = self._log_probs()
        tokens = scores.argmax(-1)
        return tokens.tolist(), scores[np.arange(len(scores)), tokens].tolist()

    def top(self, rows: Sequence[int], count: int) -> tuple[Array, Array]:
        """The ``count`` most probable tokens of some rows and their log-probabilities, best first: (rows, count) each."""
        index = np.asarray(rows)
        if "top_tokens" in self._arrays and self._arrays["top_tokens"].shape[1] >= count:
            return self._arrays["top_tokens"][index, :count], self._arrays["top_log_probs"][index, :count]
        scores = self._log_probs()[index]
        tokens = np.argsort(-scores, axis=-1, kind="stable")[:, :count]
        return tokens, np.take_along_axis(scores, tokens, -1)

    def _log_probs(self) -> Array:
        if "log_probs" in self._arrays:
            return self._arrays["log_probs"]
        logits = self._arrays["logits"].astype(np.float32)
        shifted = logits - logits.max(-1, keepdims=True)
        result: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return result


class _Step:
    """One step graph with its session and its bindings."""

    def __init__(self, declared: manifest_pb2.StepGraph, session: onnxruntime.InferenceSession) -> None:
        self.declared, self.session = declared, session
        self.inputs = {tensor.name: tensor for tensor in declared.graph.inputs}
        self.outputs = {tensor.name: tensor for tensor in declared.graph.outputs}
        self.is_routed = bool(_ROUTING & set(self.inputs))
        self.bindings: dict[tuple[int, int, int], onnxruntime.IOBinding] = {}
        self.seen_rows: set[int] = set()


class IterativeRunner:
    """Sessions and slots of one bundle on the CPU. Not thread-safe: one engine loop owns it."""

    def __init__(self, bundle: Bundle, num_slots: int) -> None:
        self.bundle, self.num_slots = bundle, num_slots
        self.num_cold_shapes = 0
        self._is_warm = False
        self._parity = 0

    def start(self) -> None:
        """Loads the graphs and allocates the slots."""
        bundle = self.bundle
        variant, limits = bundle.variant, bundle.manifest.limits
        self._encode = make_session(bundle.folder / variant.encode.file, "cpu")
        self._encode_inputs = {tensor.name: NUMPY_TYPES[tensor.dtype] for tensor in variant.encode.inputs}
        self._encode_outputs = [tensor.name for tensor in variant.encode.outputs]
        self._steps = [_Step(step, make_session(bundle.folder / step.graph.file, "cpu")) for step in variant.steps]
        dtypes = {name: NUMPY_TYPES[tensor.dtype] for step in self._steps for name, tensor in step.inputs.items()}
        self.state = SlotState(bundle.manifest.states, dtypes, self.num_slots)
        self._capacity = {state.growing_axis: state.capacity for state in bundle.manifest.states if state.growing_axis}
        self._capacity.setdefault("source", limits.max_source_tokens + 1)
        self._feeds: dict[tuple[str, str], Array] = {}
        self._results: dict[tuple[int, str], Array] = {}

    def warm_up(self) -> None:
        """Runs every step graph at every number of rows that it may be given, and the encoder at a few shapes."""
        started = time.monotonic()
        for length in (4, 16, 32):
            self.encode([[self.bundle.manifest.vocabulary.end_id] * length] * 4)
        end = self.bundle.manifest.vocabulary.end_id
        for step in self._steps:
            group = max(1, min(step.declared.max_rows_of_request or 2, self.num_slots))
            for rows in range(1, self.num_slots + 1):
                requests = rows if group == 1 else -(-rows // group)
                of_row = [min(row // group, requests - 1) for row in range(rows)]
                members = [[row for row in range(rows) if of_row[row] == request] for request in range(requests)]
                self._run(step, StepInputs([end] * rows, [0] * rows, of_row, members, [1] * requests, False))
        self._is_warm = True
        log.info("warm-up of %s took %.2f s", self.bundle.manifest.model_id, time.monotonic() - started)

    def encode(self, sources: Sequence[Sequence[int]]) -> dict[str, Array]:
        """Runs the encoder on a group of sources (token lists with their end symbol); outputs by name, (B, ...)."""
        lengths = np.array([len(source) for source in sources])
        source = np.full((len(sources), int(lengths.max())), self.bundle.manifest.vocabulary.pad_id)
        for row, tokens in zip(source, sources, strict=True):
            row[: len(tokens)] = tokens
        feeds = {"source": source, "source_length": lengths}
        feeds = {name: feeds[name].astype(dtype, copy=False) for name, dtype in self._encode_inputs.items()}
        return dict(zip(self._encode_outputs, self._encode.run(self._encode_outputs, feeds), strict=True))

    def step(self, inputs: StepInputs) -> StepOutputs:
        """One decode step of all live rows; the state has advanced when it returns."""
        return self._run(self._choose(inputs), inputs)

    def _choose(self, inputs: StepInputs) -> _Step:
        most = max(map(len, inputs.rows_of_request))
        is_aligned = most == 1 and all(row == request for row, request in enumerate(inputs.request_of_row))
        fitting = [
            step
            for step in self._steps
            if (step.declared.max_rows_of_request or most) >= most and (step.is_routed or is_aligned)
        ]  # fmt: skip
        return next((step for step in fitting if step.declared.gives_attention == inputs.wants_attention), fitting[0])

    def _run(self, step: _Step, inputs: StepInputs) -> StepOutputs:
        rows, requests = len(inputs.tokens), len(inputs.source_lengths)
        key = (rows, requests, self._parity)
        binding = step.bindings.get(key)
        if binding is None:
            self._note_shape(step, rows)
            binding = step.bindings[key] = self._bind(step, rows, requests)
        self._fill(step, inputs)
        step.session.run_with_iobinding(binding)
        if any(buffer.spare is not None for buffer in self.state.buffers.values()):
            self.state.flip()
            self._parity ^= 1
        arrays = {name: self._results[id(step), name][:rows] for name in step.outputs if (id(step), name) in self._results}
        attention = arrays.pop(self.bundle.manifest.attention.output, None) if step.declared.gives_attention else None
        return StepOutputs(arrays, attention)

    def _note_shape(self, step: _Step, rows: int) -> None:
        if self._is_warm and rows not in step.seen_rows:
            self.num_cold_shapes += 1
        step.seen_rows.add(rows)

    def _fill(self, step: _Step, inputs: StepInputs) -> None:
        rows, requests = len(inputs.tokens), len(inputs.source_lengths)
        self._feed(step, "token", rows)[:] = inputs.tokens
        if "position" in step.inputs:
            self._feed(step, "position", rows)[:] = inputs.positions
        if "source_length" in step.inputs:
            self._feed(step, "source_length", requests)[:] = inputs.source_lengths
        if "request_of_row" in step.inputs:
            self._feed(step, "request_of_row", rows)[:] = inputs.request_of_row
        if "rows_of_request" in step.inputs:
            group = int(step.inputs["rows_of_request"].axes[1])
            table = self._feed(step, "rows_of_request", requests)
            table[:] = [[*members, *([0] * (group - len(members)))] for members in inputs.rows_of_request]
            place = self._feed(step, "place_of_row", rows)
            for request, members in enumerate(inputs.rows_of_request):
                for index, row in enumerate(members):
                    place[row] = request * group + index

    def _feed(self, step: _Step, name: str, count: int) -> Array:
        tensor = step.inputs[name]
        key = (name, f"{tensor.dtype}{tensor.axes[1:]}")
        if key not in self._feeds:
            self._feeds[key] = np.zeros([self.num_slots, *map(int, tensor.axes[1:])], NUMPY_TYPES[tensor.dtype])
        return self._feeds[key][:count]

    def _bind(self, step: _Step, rows: int, requests: int) -> onnxruntime.IOBinding:
        binding = step.session.io_binding()
        buffers = self.state.buffers
        for name, tensor in step.inputs.items():
            count = requests if tensor.axes[0] == "request" or name == "source_length" else rows
            if name in buffers:
                count = requests if buffers[name].declared.scope == manifest_pb2.SCOPE_REQUEST else rows
            value = buffers[name].current[:count] if name in buffers else self._feed(step, name, count)
            binding.bind_input(name, "cpu", 0, value.dtype.type, list(value.shape), value.ctypes.data)
        owners = {buffer.declared.step_output: buffer for buffer in buffers.values() if buffer.declared.step_output}
        for name, tensor in step.outputs.items():
            if name in owners:
                buffer = owners[name]
                count = requests if buffer.declared.scope == manifest_pb2.SCOPE_REQUEST else rows
                value = (buffer.current if buffer.spare is None else buffer.spare)[:count]
            else:
                value = self._result(step, tensor)[:rows]
            binding.bind_output(name, "cpu", 0, value.dtype.type, list(value.shape), value.ctypes.data)
        return binding

    def _result(self, step: _Step, tensor: manifest_pb2.Tensor) -> Array:
        key = (id(step), tensor.name)
        if key not in self._results:
            shape = [int(axis) if axis.isdigit() else self._axis(axis) for axis in tensor.axes[1:]]
            self._results[key] = np.zeros([self.num_slots, *shape], NUMPY_TYPES[tensor.dtype])
        return self._results[key]

    def _axis(self, name: str) -> int:
        return self._capacity[name] if name in self._capacity else self.bundle.manifest.vocabulary.size
