# SPDX-License-Identifier: Apache-2.0
"""Single-pass graphs on a CUDA device: fixed buffers and one captured CUDA graph per graph, shapes and bucket of the batch.

A batch is rounded up to a bucket: a power of two, or the largest batch; the entries beyond it hold what was there before. The
warm-up learns the shapes of the outputs by a plain run, times the searches for cuDNN's algorithms of convolutions, and binds the
buffers to the fastest. ONNX Runtime has the search as an option of the session, so there is one session for each. Shapes that the
warm-up did not cover run plainly, over buffers of their own. ``cuda.py`` states the conditions of capture and replay.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.execution.cuda import row_buckets
from attnserve_server.execution.device_run import NO_GRAPH, Block, CapturedRun
from attnserve_server.execution.device_tensor import DeviceTensor, Layout
from attnserve_server.execution.pass_memory import Array, Shapes
from attnserve_server.execution.session import NUMPY_TYPES, make_session

log = logging.getLogger(__name__)
SEARCHES = ("EXHAUSTIVE", "HEURISTIC")
"""How cuDNN's algorithms are chosen; of equally fast ones, the first."""
_TIMED_RUNS = 3
_MOST_SHAPES = 1024


class CudaPasses:
    """The graphs of a variant on the device; without ``captures``, they run as ordinary kernel launches."""

    def __init__(self, bundle: Bundle, *, captures: bool = True) -> None:
        self._bundle, self._captures = bundle, captures
        self._sessions: list[list[onnxruntime.InferenceSession]] = []
        self._kept: dict[tuple[int, Shapes], dict[int, CudaCall]] = {}
        self._output_shapes: dict[tuple[int, Shapes], Shapes] = {}
        self._thread = threading.get_ident()
        self._graph_id = 0

    def loading(self) -> Iterator[None]:
        """See :class:`PassMemory`."""
        for each in self._bundle.variant.passes:
            self._sessions.append([])
            for search in SEARCHES:
                self._sessions[-1].append(self._session(self._bundle.folder / each.graph.file, search))
                yield

    def batches(self, most: int) -> Sequence[int]:
        """See :class:`PassMemory`: the buckets."""
        return row_buckets(most)[::-1]

    def warm(self, graph: int, shapes: Shapes, feeds: Mapping[str, Any], batch: int) -> None:
        """See :class:`PassMemory`: chooses the search, and captures."""
        timed = [
            (self._time(self._call(graph, shapes, batch, session, NO_GRAPH), feeds, batch), index)
            for index, session in enumerate(self._sessions[graph])
        ]
        best = min(timed)[1]
        log.info("%s, batch %d: %s, %s", self._bundle.variant.passes[graph].graph.file, batch, shapes[0], SEARCHES[best])
        self._graph_id += 1
        call = self._call(graph, shapes, batch, self._sessions[graph][best], self._graph_id)
        self._time(call, feeds, batch)
        self._kept.setdefault((graph, shapes), {})[batch] = call

    def call(self, graph: int, shapes: Shapes, batch: int) -> CudaCall:
        """See :class:`PassMemory`."""
        kept = self._kept.get((graph, shapes), {})
        bucket = min((each for each in kept if each >= batch), default=None)
        return self._call(graph, shapes, batch, self._sessions[graph][0], NO_GRAPH) if bucket is None else kept[bucket]

    def _session(self, file: Path, search: str) -> onnxruntime.InferenceSession:
        make = functools.partial(make_session, file, "cuda", has_many_shapes=True, conv_search=search)
        if not self._captures:
            return make()
        try:
            return make(captures=True)
        except Exception as error:  # noqa: BLE001  a node is not on the device; any other failure is raised by the next line too
            log.warning("%s runs without CUDA graphs: %s", file.name, str(error).splitlines()[0])
            return make()

    def _time(self, call: CudaCall, feeds: Mapping[str, Any], batch: int) -> float:
        """Returns the least time of a run, in seconds, after one that chooses algorithms, or captures."""
        names = [tensor.name for tensor in self._bundle.variant.passes[call.graph].graph.outputs]
        for name, value in feeds.items():
            call.feeds[name][:] = value
        call.run(batch, names)
        times = []
        for _ in range(_TIMED_RUNS):
            began = time.perf_counter()
            call.run(batch, names)
            times.append(time.perf_counter() - began)
        return min(times)

    def _call(self, graph: int, shapes: Shapes, batch: int, session: onnxruntime.InferenceSession, graph_id: int) -> CudaCall:
        """Allocates the buffers of a graph, and binds a session to them."""
        declared = self._bundle.variant.passes[graph].graph
        inputs = _block(session, declared.inputs, shapes, batch)
        binding = session.io_binding()
        _bind(binding.bind_input, declared.inputs, inputs)
        if (graph, shapes) not in self._output_shapes:
            if len(self._output_shapes) >= _MOST_SHAPES:
                self._output_shapes.clear()
            self._output_shapes[graph, shapes] = _learnt(session, binding, declared.outputs)
        outputs = _block(session, declared.outputs, self._output_shapes[graph, shapes], batch)
        binding.clear_binding_outputs()
        _bind(binding.bind_output, declared.outputs, outputs)
        run = CapturedRun(session, binding, graph_id, self._thread)
        return CudaCall(graph, run, inputs, outputs, is_warm=graph_id != NO_GRAPH)


class CudaCall:
    """A session bound to the buffers of a graph's inputs and outputs."""

    def __init__(self, graph: int, run: CapturedRun, inputs: _Buffers, outputs: _Buffers, *, is_warm: bool) -> None:
        self.graph, self._run, self._inputs, self._outputs, self.is_warm = graph, run, inputs, outputs, is_warm
        self.feeds = inputs.block.views

    def run(self, count: int, names: Sequence[str]) -> Mapping[str, Array]:
        """See :class:`PassCall`."""
        self._inputs.block.upload()
        self._run.run()
        self._outputs.block.download()
        return {name: self._outputs.block.views[name][:count] for name in names}


class _Buffers:
    """The tensors of one side of a graph, in one block on the device."""

    def __init__(self, layout: Layout, device: DeviceTensor) -> None:
        self.layout, self.device, self.block = layout, device, Block(layout, device)


def _block(session: onnxruntime.InferenceSession, tensors: Sequence[manifest_pb2.Tensor], shapes: Shapes, batch: int) -> _Buffers:
    fields = {tensor.name: ((batch, *shape), NUMPY_TYPES[tensor.dtype]) for tensor, shape in zip(tensors, shapes, strict=True)}
    layout = Layout(fields)
    return _Buffers(layout, DeviceTensor(session, [layout.size], np.dtype(np.uint8)))


def _bind(bind: Any, tensors: Sequence[manifest_pb2.Tensor], buffers: _Buffers) -> None:
    for tensor in tensors:
        shape, dtype = buffers.layout.fields[tensor.name]
        bind(tensor.name, "cuda", 0, dtype.type, list(shape), buffers.device.address + buffers.layout.offsets[tensor.name])


def _learnt(
    session: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding, outputs: Sequence[manifest_pb2.Tensor]
) -> Shapes:
    """Returns the shapes of the outputs, without the batch, from a plain run in which ONNX Runtime allocates them."""
    for tensor in outputs:
        binding.bind_output(tensor.name, "cuda", 0)
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(NO_GRAPH))
    session.run_with_iobinding(binding, options)
    return tuple(tuple(value.shape()[1:]) for value in binding.get_outputs())
