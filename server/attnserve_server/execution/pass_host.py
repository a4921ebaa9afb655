# SPDX-License-Identifier: Apache-2.0
"""Single-pass graphs on the CPU: plain runs of the session, with one input buffer per graph and shapes.

A plain run is as fast as one over bound outputs. The warm-up runs the largest batch, so that ONNX Runtime allocates its maximum of
memory, and one request; a first run of another batch is as fast as later ones. Memory patterns are off, for ONNX Runtime keeps one
for each shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnxruntime

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.execution.pass_memory import Array, Shapes
from attnserve_server.execution.session import NUMPY_TYPES, make_session


class HostPasses:
    """The graphs of a variant on the CPU."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._sessions: list[onnxruntime.InferenceSession] = []
        self._kept: dict[tuple[int, Shapes], HostCall] = {}

    def loading(self) -> Iterator[None]:
        """See :class:`PassMemory`."""
        for each in self._bundle.variant.passes:
            self._sessions.append(make_session(self._bundle.folder / each.graph.file, "cpu", has_many_shapes=True))
            yield

    def batches(self, most: int) -> Sequence[int]:
        """See :class:`PassMemory`."""
        return [most, 1] if most > 1 else [1]

    def warm(self, graph: int, shapes: Shapes, feeds: Mapping[str, Any], batch: int) -> None:
        """See :class:`PassMemory`."""
        call = self._kept.get((graph, shapes))
        if call is None or call.batch < batch:
            call = self._kept[graph, shapes] = self._made(graph, shapes, batch, is_warm=True)
        for name, value in feeds.items():
            call.feeds[name][:batch] = value
        call.run(batch, [tensor.name for tensor in self._bundle.variant.passes[graph].graph.outputs])

    def call(self, graph: int, shapes: Shapes, batch: int) -> HostCall:
        """See :class:`PassMemory`."""
        kept = self._kept.get((graph, shapes))
        return kept if kept is not None and batch <= kept.batch else self._made(graph, shapes, batch, is_warm=False)

    def _made(self, graph: int, shapes: Shapes, batch: int, *, is_warm: bool) -> HostCall:
        tensors = self._bundle.variant.passes[graph].graph.inputs
        return HostCall(self._sessions[graph], empty_feeds(tensors, shapes, batch), batch, is_warm=is_warm)


class HostCall:
    """A session and the buffers of its inputs."""

    def __init__(self, session: onnxruntime.InferenceSession, feeds: dict[str, Array], batch: int, *, is_warm: bool) -> None:
        self._session, self.feeds, self.batch, self.is_warm = session, feeds, batch, is_warm

    def run(self, count: int, names: Sequence[str]) -> Mapping[str, Array]:
        """See :class:`PassCall`."""
        found = self._session.run(list(names), {name: value[:count] for name, value in self.feeds.items()})
        return dict(zip(names, cast(Sequence[Array], found), strict=True))


def empty_feeds(tensors: Sequence[manifest_pb2.Tensor], shapes: Shapes, batch: int) -> dict[str, Array]:
    """Makes host arrays of zeros for all inputs of a graph."""
    return {
        tensor.name: np.zeros((batch, *shape), NUMPY_TYPES[tensor.dtype]) for tensor, shape in zip(tensors, shapes, strict=True)
    }
