# SPDX-License-Identifier: Apache-2.0
"""One run of a session on a CUDA device: blocks of inputs and outputs with their copies on the host, and CUDA graphs by number."""

from __future__ import annotations

import threading

import numpy as np
import onnxruntime

from attnserve_server.execution.device_tensor import DeviceTensor, Layout

NO_GRAPH = -1
"""Number with which a session that captures CUDA graphs runs plainly."""


class Block:
    """A part of a device block, and its copy on the host."""

    def __init__(self, layout: Layout, device: DeviceTensor) -> None:
        self._host = np.zeros(layout.size, np.uint8)
        self._host_value = onnxruntime.OrtValue.ortvalue_from_numpy(self._host)
        self._device_value = device.first(layout.size)
        self.views = layout.split(self._host)

    def upload(self) -> None:
        """Copies the host's bytes to the device."""
        self._device_value.update_inplace(self._host)

    def download(self) -> None:
        """Copies the device's bytes to the host."""
        self._host_value.update_inplace(self._device_value)


class CapturedRun:
    """A session, its binding and the number of its CUDA graph.

    Args:
        session: with CUDA graphs; the number has no effect on others.
        binding: of all inputs and outputs, by address.
        graph_id: number of the graph, for this binding alone; or :data:`NO_GRAPH`.
        thread: the one that captures and replays.
    """

    def __init__(self, session: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding, graph_id: int, thread: int) -> None:
        self._session, self._binding, self._thread = session, binding, thread
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(graph_id))

    def run(self) -> None:
        """Runs the session; the first run of a number captures its graph.

        Raises:
            RuntimeError: it is another thread, which would capture again.
        """
        if threading.get_ident() != self._thread:
            raise RuntimeError("a graph ran on another thread than the one that loaded the model: it would be captured again")
        self._session.run_with_iobinding(self._binding, self._options)
