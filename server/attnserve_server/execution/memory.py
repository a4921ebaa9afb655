# SPDX-License-Identifier: Apache-2.0
"""The seam between the runner and the memory that the graphs read and write: what differs from device to device.

The runner decides which graph runs and writes the layout of the live rows into host arrays; a memory owns the sessions, the
state of all slots and the bindings. ``host.py`` and ``cuda.py`` have one each; only ``factory.py`` names them.
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
"""What the encoder gave, by name; only the memory that made it knows where it lies. Valid until the next encoder run."""
Key = tuple[int, int, int]
"""What a binding is made for: rows, requests, buffer parity (which of two buffers is current)."""
INDEX_INPUTS = frozenset({"request_of_row", "rows_of_request", "place_of_row"})


class State(Protocol):
    """The state of all slots: the few things that are ever done to it between steps."""

    def insert(self, requests: Sequence[int], rows: Sequence[int], encoded: Encoded) -> None:
        """Gives request slots and row slots the first values of new requests, those of an encoded group in its order."""
        ...

    def move_request(self, source: int, target: int, length: int) -> None:
        """Moves the state of a request to another slot; of growing state at least the first ``length`` entries."""
        ...

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copies rows, none of which is both source and target; of growing state at least the first ``length`` entries."""
        ...


class Binding(Protocol):
    """A step graph bound to memory."""

    def feeds(self, rows: int, requests: int) -> Mapping[str, Array]:
        """Host arrays to be filled with the small inputs of the live rows and requests."""
        ...

    def run(self, rows: int) -> Mapping[str, Array]:
        """Runs the step; the state has advanced. Returns the live rows of its other outputs."""
        ...


class Memory(Protocol):
    """Sessions, state and bindings of one bundle on one device."""

    @property
    def state(self) -> State:
        """The slots."""
        ...

    @property
    def steps(self) -> Sequence[StepSession]:
        """The step graphs, in the manifest's order."""
        ...

    def source_size(self, longest: int) -> int:
        """To which length a group of sources is padded."""
        ...

    def encode(self, feeds: Mapping[str, Array]) -> Encoded:
        """Runs the encoder."""
        ...

    def key(self, rows: int, requests: int) -> Key:
        """What a step of so many rows and requests is bound for."""
        ...

    def bind(self, step: StepSession, key: Key) -> Binding:
        """Makes a binding; the runner keeps it."""
        ...

    def warm_rows(self) -> Iterable[int]:
        """Numbers of rows to warm every step graph up with, in this order."""
        ...

    def warm_sources(self) -> Iterable[tuple[int, int]]:
        """Groups to warm the encoder up with, after the steps: how many sources of which length."""
        ...


class StepSession:
    """One step graph with its session and its bindings."""

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
        """Size of an input's first axis. (Where it is declared as "row" but is a request's, the two are the same number.)"""
        return requests if name in self._of_request else rows


class Sizes:
    """Resolves a bundle's named axes."""

    def __init__(self, bundle: Bundle) -> None:
        self._vocabulary = bundle.manifest.vocabulary.size
        self._capacity = {state.growing_axis: state.capacity for state in bundle.manifest.states if state.growing_axis}
        self._capacity.setdefault("source", bundle.manifest.limits.max_source_tokens + 1)

    def shape(self, tensor: manifest_pb2.Tensor) -> list[int]:
        """A tensor's shape without its first axis."""
        return [int(axis) if axis.isdigit() else self.axis(axis) for axis in tensor.axes[1:]]

    def axis(self, name: str) -> int:
        """Capacity of a named axis."""
        return self._capacity.get(name, self._vocabulary)


def state_dtypes(steps: Iterable[StepSession]) -> dict[str, np.dtype[Any]]:
    """Element types of the steps' inputs by name."""
    return {name: NUMPY_TYPES[tensor.dtype] for step in steps for name, tensor in step.inputs.items()}


def state_outputs(states: Iterable[manifest_pb2.State]) -> dict[str, str]:
    """Which state each of the steps' state outputs is the next value of."""
    return {state.step_output: state.name for state in states if state.step_output}
