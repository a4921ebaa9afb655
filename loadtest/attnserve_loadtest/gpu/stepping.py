# SPDX-License-Identifier: Apache-2.0
"""Runs single steps of a runner with filled states, times them, and computes the least time on this device."""

from __future__ import annotations

import ctypes
import os
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from attnserve_server.bundle.loader import Bundle
from attnserve_server.execution.cuda import row_buckets
from attnserve_server.execution.factory import make_runner
from attnserve_server.execution.runner import IterativeRunner
from attnserve_server.execution.session import cuda_options
from attnserve_server.execution.step import StepInputs
from attnserve_server.profiling.measure import Workload

POSITION, SOURCE = 12, 16
"""Tokens before the step, and tokens of the source: the means of the golden sentences."""
REPETITIONS = 50
NO_KERNEL = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Shape", "Size", "Constant"})
"""Operators that launch no kernel: they reshape the same memory, or compute a shape on the host."""
ATTENTION_DEBUG = "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO"
"""Variable that makes ONNX Runtime print the attention kernel of each run without graphs; read when a session is made."""


def started(bundle: Bundle, slots: int, *, captures: bool) -> IterativeRunner:
    """A warm runner, its states filled with random values, because steps on zeros may be faster."""
    runner = make_runner(bundle, slots, captures=captures)
    runner.start()
    runner.warm_up()
    fill_states(runner)
    return runner


def fill_states(runner: IterativeRunner) -> None:
    """Writes random values into every slot of every state on the device."""
    rng = np.random.default_rng(0)
    state: Any = runner.state
    for buffer in state.buffers.values():
        for tensor in (buffer.current, buffer.spare):
            if tensor is not None:
                values = (0.5 * rng.standard_normal((7, *tensor.shape[1:]))).astype(tensor.dtype)
                for index, row in enumerate(tensor.rows):
                    row.update_inplace(values[index % 7])


def workload(rows: int, beam: int) -> StepInputs:
    """The inputs of a step of ``rows`` rows, ``beam`` rows per request."""
    return Workload(rows, beam, SOURCE, POSITION).inputs()


def step_s(runner: IterativeRunner, inputs: StepInputs) -> float:
    """Seconds of a step, the median; its outputs are read, so it has ended."""
    return median_s(lambda: runner.step(inputs).best())


def median_s(call: Callable[[], object], repetitions: int = REPETITIONS) -> float:
    """Seconds of a call, the median; the first calls, a tenth, are not counted."""
    times = []
    for index in range(repetitions + repetitions // 10):
        began = time.perf_counter()
        call()
        if index >= repetitions // 10:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def num_captures(bundle: Bundle, slots: int) -> int:
    """CUDA graphs that a start captures: one for each step graph, bucket of rows and orientation of the states."""
    flips = any(state.step_output and not state.in_place for state in bundle.manifest.states)
    return len(bundle.variant.steps) * len(row_buckets(slots)) * (2 if flips else 1)


@cache
def num_kernels(path: Path) -> int:
    """Nodes of a graph that run on CUDA after ONNX Runtime's optimizations and launch a kernel."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = [("CUDAExecutionProvider", cuda_options(captures=True))]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    return sum(
        node.op_type not in NO_KERNEL
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == "CUDAExecutionProvider"
        for node in part.get_nodes()
    )


def step_bytes(bundle: Bundle, rows: int) -> int:
    """The least bytes that a step of ``rows`` rows reads and writes: all weights once, the filled part of the states, the logits.

    The weights are those of ``weights.bin``, the encoder's included, in the variant's precision: an upper bound.
    """
    manifest, width = bundle.manifest, 4 if "32" in bundle.variant.name else 2
    weights = (bundle.folder / "weights.bin").stat().st_size * width // 2  # stored in 16 bits
    length = {"target": POSITION + 1, "source": SOURCE}
    states = 0
    for state in manifest.states:
        states += width * int(np.prod([length.get(axis, int(axis) if axis.isdigit() else 1) for axis in state.axes[1:]]))
    return weights + rows * (states + 4 * manifest.vocabulary.size)


def floor_ms(kernels: int, rows: int, floor: Mapping[str, Any]) -> float | None:
    """The least time of a step on this device: its kernels as nodes of one CUDA graph, one copy up and one copy down, waited for.

    Args:
        kernels: of the step, see :func:`num_kernels`.
        rows: of the step.
        floor: the figures of the check ``floor``; None is returned where they are missing.
    """
    if "us_a_node_64_rows" not in floor:
        return None
    node = floor["us_a_node_64_rows" if rows <= 64 else "us_a_node_1024_rows"]
    return float(kernels * node + floor["up_2k_us"] + floor["down_2k_us"]) / 1e3


def bytes_ms(num_bytes: int, floor: Mapping[str, Any]) -> float | None:
    """The time of ``num_bytes`` bytes at the rate of a copy on this device; None where the check ``floor`` is missing."""
    return 1e3 * num_bytes / floor["copy_bytes_per_second"] if "copy_bytes_per_second" in floor else None


def free_bytes() -> int:
    """Device memory that is free, by ``cudaMemGetInfo``.

    Raises:
        OSError: the CUDA runtime is not loaded.
        RuntimeError: it reports an error.
    """
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    code = ctypes.CDLL("libcudart.so.13").cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    if code:
        raise RuntimeError(f"cudaMemGetInfo: error {code}")
    return free.value


def attention_kernels(bundle: Bundle) -> dict[str, int]:
    """The attention kernels that ONNX Runtime chooses in a step without graphs, by its names, and the number of nodes of each."""
    os.environ[ATTENTION_DEBUG] = "1"
    try:
        runner = make_runner(bundle, 8, captures=False)
        runner.start()
        text = _native_output_of(lambda: runner.step(workload(8, 1)).best())
        nodes = set(re.findall(r"Operator=(\S+) Node=(\S+).*?SdpaKernel=(\w+)", text))
        return dict(Counter(f"{operator} {kernel}" for operator, _, kernel in sorted(nodes)))
    finally:
        del os.environ[ATTENTION_DEBUG]


def _native_output_of(call: Callable[[], object]) -> str:
    """Returns what native code writes to standard output and error while ``call`` runs."""
    libc, saved = ctypes.CDLL(None), {number: os.dup(number) for number in (1, 2)}
    with tempfile.TemporaryFile() as file:
        try:
            for number in saved:
                os.dup2(file.fileno(), number)
            call()
        finally:
            libc.fflush(None)
            for number, descriptor in saved.items():
                os.dup2(descriptor, number)
                os.close(descriptor)
        file.seek(0)
        return file.read().decode(errors="replace")
