# SPDX-License-Identifier: Apache-2.0
"""The interface between the runner and device memory: everything that depends on the device.

The runner chooses the graph and writes the layout of the live rows into host arrays. A memory owns the sessions, the state of all
slots and the bindings. ``host.py`` and ``cuda.py`` implement it; only ``factory.py`` imports them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.execution.session import NUMPY_TYPES, make_session

Array = npt.NDArray[np.generic]
Encoded = Mapping[str, Any]
"""Outputs of the encoder by name, opaque to all but the memory that made them. Valid until the next encoder run."""
Key = tuple[int, int, int]
"""Key of a binding: rows, requests, buffer parity (which of two buffers is current)."""
INDEX_INPUTS = frozenset({"request_of_row", "rows_of_request", "place_of_row"})


class State(Protocol):
    """The state of all slots, and the operations on it between steps."""

    buffer_parity: int
    """0 or 1: which of two buffers is current; always 0 if all state is in place."""

    def insert(self, requests: Sequence[int], rows: Sequence[int], encoded: Encoded) -> None:
        """Writes the initial state of new requests; ``requests`` and ``rows`` name the slots of each, in the group's order."""
        ...

    def move_request(self, source: int, target: int, length: int) -> None:
        """Moves a request's state to another slot; growing state is copied at least up to ``length`` entries."""
        ...

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copies rows, none both source and target; growing state is copied at least up to ``length`` entries."""
        ...


class Binding(Protocol):
    """A step graph bound to memory."""

    def feeds(self, rows: int, requests: int) -> Mapping[str, Array]:
        """Returns host arrays, to be filled with the small inputs of the live rows and requests."""
        ...

    def run(self, rows: int) -> Mapping[str, Array]:
        """Runs the step and advances the state; returns the live rows of all other outputs."""
        ...


class Memory(Protocol):
    """Sessions, state and bindings of one bundle on one device."""

    @property
    def state(self) -> State:
        """State of all slots."""
        ...

    @property
    def steps(self) -> Sequence[StepSession]:
        """The step graphs, in the manifest's order."""
        ...

    def source_size(self, longest: int) -> int:
        """Returns the number of tokens to which each source of a group is padded for the encoder.

        Args:
            longest: number of tokens of the group's longest source, with its end symbol.

        Returns:
            ``longest`` on the CPU; on CUDA the capacity of the axis "source", for which the encoder's outputs are allocated.
        """
        ...

    def encode(self, feeds: Mapping[str, Array]) -> Encoded:
        """Runs the encode graph; ``feeds`` are its inputs by name, the group of sources on their first axis."""
        ...

    def input_array(self, name: str, dtype: npt.DTypeLike) -> Array | None:
        """Returns the array of all slots (num_slots,) that step graphs read an input of one axis from, to be written directly.

        None if no step graph has this input with this type, or if inputs are copied to the device.
        """
        ...

    def key(self, rows: int, requests: int) -> Key:
        """Returns the key of the binding for this number of live rows and requests; the key's numbers may be larger (CUDA)."""
        ...

    def bind(self, step: StepSession, key: Key) -> Binding:
        """Binds a step graph to the buffers, for the rows, requests and buffer parity of ``key``; the runner caches the binding."""
        ...

    def warm_rows(self) -> Iterable[int]:
        """Numbers of rows to warm up every step graph with, in this order."""
        ...

    def warm_sources(self) -> Iterable[tuple[int, int]]:
        """Groups to warm up the encoder with, after the steps: (number of sources, length)."""
        ...


class StepSession:
    """A step graph with its session and bindings."""

    def __init__(
        self,
        declared: manifest_pb2.StepGraph,
        states: Iterable[manifest_pb2.State],
        folder: Path,
        device: str,
        profile: Path | None = None,
        *,
        captures: bool = True,
    ) -> None:
        self.declared = declared
        self.session: onnxruntime.InferenceSession = make_session(
            folder / declared.graph.file, device, captures=captures and device != "cpu", profile=profile
        )
        self.inputs = {tensor.name: tensor for tensor in declared.graph.inputs}
        self.outputs = {tensor.name: tensor for tensor in declared.graph.outputs}
        self.is_indexed = bool(INDEX_INPUTS & set(self.inputs))
        self.gives_log_probs = bool({"log_probs", "top_log_probs"} & set(self.outputs))
        shared = {state.name for state in states if state.scope == manifest_pb2.SCOPE_REQUEST}
        shared |= {name for name, tensor in self.inputs.items() if tensor.axes[0] == "request"}
        self._of_request = shared | {"source_length"}
        self.bindings: dict[Key, Binding] = {}
        self.seen_rows: set[int] = set()

    def count_of(self, name: str, rows: int, requests: int) -> int:
        """Returns the size of an input's first axis. (If it is declared "row" but is a request's, both counts are equal.)"""
        return requests if name in self._of_request else rows


class Sizes:
    """Resolves the named axes of a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self._vocabulary = bundle.manifest.vocabulary.size
        self._capacity = {state.growing_axis: state.capacity for state in bundle.manifest.states if state.growing_axis}
        self._capacity.setdefault("source", bundle.manifest.limits.max_source_tokens + 1)

    def shape(self, tensor: manifest_pb2.Tensor) -> list[int]:
        """Returns a tensor's shape without its first axis."""
        return [int(axis) if axis.isdigit() else self.axis(axis) for axis in tensor.axes[1:]]

    def axis(self, name: str) -> int:
        """Returns the capacity of a named axis: a state's growing axis or "source"; any other name is the vocabulary's axis."""
        return self._capacity.get(name, self._vocabulary)


def state_dtypes(steps: Iterable[StepSession]) -> dict[str, np.dtype[Any]]:
    """Returns the element types of the steps' inputs by name."""
    return {name: NUMPY_TYPES[tensor.dtype] for step in steps for name, tensor in step.inputs.items()}


def state_outputs(states: Iterable[manifest_pb2.State]) -> dict[str, str]:
    """Maps each state output of a step to the name of its state."""
    return {state.step_output: state.name for state in states if state.step_output}
