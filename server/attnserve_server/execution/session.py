# SPDX-License-Identifier: Apache-2.0
"""Makes ONNX Runtime sessions; the only module that sets providers and options."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from attnserve.v1 import manifest_pb2

_CUDA = "CUDAExecutionProvider"
DRIVER = "libcuda.so.1"
"""Library of NVIDIA's driver, which the CUDA provider is linked with."""
NUMPY_TYPES: Mapping[int, np.dtype[Any]] = {
    manifest_pb2.DATA_TYPE_FLOAT32: np.dtype(np.float32),
    manifest_pb2.DATA_TYPE_FLOAT16: np.dtype(np.float16),
    manifest_pb2.DATA_TYPE_INT32: np.dtype(np.int32),
    manifest_pb2.DATA_TYPE_INT64: np.dtype(np.int64),
    manifest_pb2.DATA_TYPE_UINT8: np.dtype(np.uint8),
}


@dataclass(frozen=True, slots=True)
class NodeTimes:
    """A node of a session's optimized graph, its operator, and the duration of each run in seconds."""

    name: str
    operator: str
    seconds: list[float]


def node_times(session: onnxruntime.InferenceSession) -> list[NodeTimes]:
    """Ends the profiling of a session that was made with ``profile``; returns its nodes' times."""
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found: dict[str, NodeTimes] = {}
    for event in events:
        name, suffix, _ = event.get("name", "").rpartition("_kernel_time")
        if event.get("cat") == "Node" and suffix:
            node = found.setdefault(name, NodeTimes(name, event["args"]["op_name"], []))
            node.seconds.append(event["dur"] * 1e-6)
    return list(found.values())


def make_session(
    path: Path,
    device: str,
    *,
    captures: bool = False,
    profile: Path | None = None,
    has_many_shapes: bool = False,
    conv_search: str = "",
) -> onnxruntime.InferenceSession:
    """Makes a session with one intra-op thread (two are slower for steps of this size).

    Args:
        path: the ONNX file.
        device: "cpu" or "cuda".
        captures: on CUDA, capture one CUDA graph per shape and replay it.
        profile: folder for node times, see :func:`node_times`; None for no profiling.
        has_many_shapes: keep no memory pattern for each shape, and let the device's memory grow by what is asked for.
        conv_search: on CUDA, how algorithms of convolutions are chosen; empty for ONNX Runtime's default.

    Raises:
        RuntimeError: the CUDA provider cannot be used; there is no silent fallback to the CPU.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = not has_many_shapes
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile / path.stem)
    if device == "cpu":
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    _load_cuda()
    chosen = cuda_options(captures=captures)
    if has_many_shapes:
        chosen["arena_extend_strategy"] = "kSameAsRequested"
    if conv_search:
        chosen["cudnn_conv_algo_search"] = conv_search
    session = onnxruntime.InferenceSession(str(path), options, providers=[(_CUDA, chosen)], enable_fallback=0)
    if _CUDA not in session.get_providers():  # where the provider cannot be loaded, ONNX Runtime uses the CPU all the same
        raise RuntimeError("ONNX Runtime cannot load its CUDA provider")
    return session


def cuda_options(*, captures: bool) -> dict[str, str]:
    """Options of the CUDA provider: no TF32, and Flash or memory-efficient attention only (by default it prefers cuDNN)."""
    return {"enable_cuda_graph": "1" if captures else "0", "sdpa_kernel": "3", "use_tf32": "0"}


def onnxruntime_version() -> str:
    """Returns the version of the imported ONNX Runtime, of possibly several installed distributions."""
    return str(onnxruntime.__version__)


def resolve_device(device: str) -> str:
    """Resolves "auto": "cuda" if this ONNX Runtime can allocate on a CUDA device, else "cpu"."""
    if device != "auto":
        return device
    return "cpu" if device_problem("cuda") else "cuda"


def device_problem(device: str) -> str:
    """Returns why this ONNX Runtime cannot use a device ("cpu" or "cuda"); empty if it can."""
    if device == "cpu":
        return ""
    if _CUDA not in onnxruntime.get_available_providers():
        return (
            "this ONNX Runtime was built without CUDA; install the extra gpu in place of cpu, in a new environment: "
            'pip install "attnserve[server,gpu]"'
        )
    try:
        ctypes.CDLL(DRIVER)  # without it, ONNX Runtime writes the reason to stderr and raises an error that does not name it
        _load_cuda()
        onnxruntime.OrtValue.ortvalue_from_shape_and_type([1], np.float32, "cuda", 0)
    except Exception as error:  # noqa: BLE001  any failure means that there is no usable device
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


@cache
def _load_cuda() -> None:
    """Loads the CUDA libraries that were installed as Python packages, which are on no loader path."""
    onnxruntime.preload_dlls()
