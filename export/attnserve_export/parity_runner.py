# SPDX-License-Identifier: Apache-2.0
"""Runs one variant of a bundle in the simplest way that its manifest allows: all state through host memory, one static batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnxruntime

from attnserve.v1 import manifest_pb2

Array = npt.NDArray[Any]

_NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
}


@dataclass(slots=True)
class StepResult:
    """Outputs of one step, by name."""

    outputs: dict[str, Array]

    def logits(self) -> Array:
        """The graph's scores over the vocabulary: logits, or log-probabilities."""
        return self.outputs["logits"] if "logits" in self.outputs else self.outputs["log_probs"]

    def difference(self, logits: Array) -> float:
        """The largest absolute difference from a module's logits (rows, V).

        Of a graph that gives only the best candidates, their log-probabilities are compared with those of the same tokens, and
        with the module's best ones.
        """
        if "logits" in self.outputs or "log_probs" in self.outputs:
            return float(np.abs(self.logits() - logits).max())
        exponents = np.exp(logits - logits.max(-1, keepdims=True))
        theirs = np.log(exponents / exponents.sum(-1, keepdims=True))
        tokens, ours = self.outputs["top_tokens"], self.outputs["top_log_probs"]
        best = -np.sort(-theirs, axis=-1)[:, : ours.shape[1]]
        return float(max(np.abs(ours - best).max(), np.abs(ours - np.take_along_axis(theirs, tokens, -1)).max()))


class PlainRunner:
    """Runs one variant of a bundle for a static batch with ``group`` rows a request."""

    def __init__(self, folder: Path, manifest: manifest_pb2.Manifest, variant: manifest_pb2.Variant, step: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.manifest, self.step_graph = manifest, variant.steps[step].graph
        self.group = max(1, variant.steps[step].max_rows_of_request)
        names = (variant.encode.file, self.step_graph.file)
        self.encode_session, self.step_session = (
            onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"]) for name in names
        )
        self.inputs = {tensor.name: tensor for tensor in self.step_graph.inputs}

    def start(self, feeds: dict[str, Array]) -> None:
        """Encodes a batch, given as the encode graph's inputs, and repeats hypothesis state ``group`` times."""
        wanted = {value.name: _NUMPY_TYPES[value.type] for value in self.encode_session.get_inputs()}
        names = [value.name for value in self.encode_session.get_outputs()]
        typed = {name: feeds[name].astype(dtype, copy=False) for name, dtype in wanted.items()}
        encoded: dict[str, Array] = dict(zip(names, _arrays(self.encode_session, names, typed), strict=True))
        self.num_rows = rows = len(next(iter(feeds.values()))) * self.group
        self.fixed: dict[str, Array] = {
            **{name: value for name, value in feeds.items() if name == "source_length"},
            "request_of_row": np.arange(rows) // self.group,
            "rows_of_request": np.arange(rows).reshape(-1, self.group),
            "place_of_row": np.arange(rows),
        }
        self.state = {state.name: self._first(state, encoded, rows) for state in self.manifest.states}

    def _first(self, state: manifest_pb2.State, encoded: dict[str, Array], rows: int) -> Array:
        per_row = state.scope == manifest_pb2.SCOPE_HYPOTHESIS
        shape = [rows if per_row else rows // self.group]
        shape += [state.capacity if axis == state.growing_axis else int(axis) for axis in state.axes[1:]]
        value: Array = np.zeros(shape, np.float32)
        if state.encode_output:
            first = encoded[state.encode_output]
            first = np.repeat(first, self.group, 0) if per_row else first
            value[tuple(slice(0, size) for size in first.shape)] = first
        return value

    def step(self, tokens: Array, position: int) -> StepResult:
        """Runs one step of all rows at the same position."""
        feeds = {"token": tokens, "position": np.full(len(tokens), position), **self.fixed, **self.state}
        dtypes = {manifest_pb2.DATA_TYPE_INT32: np.int32, manifest_pb2.DATA_TYPE_INT64: np.int64}
        feeds = {
            name: feeds[name].astype(dtypes.get(tensor.dtype, feeds[name].dtype), copy=False)
            for name, tensor in self.inputs.items()
        }
        names = [tensor.name for tensor in self.step_graph.outputs]
        outputs = dict(zip(names, _arrays(self.step_session, names, feeds), strict=True))
        for state in self.manifest.states:
            if state.step_output:
                self.state[state.name] = outputs[state.step_output]
        return StepResult(outputs)


def _arrays(session: onnxruntime.InferenceSession, names: list[str], feeds: dict[str, Array]) -> list[Array]:
    """Runs a session whose outputs are all tensors."""
    return cast(list[Array], session.run(names, feeds))
