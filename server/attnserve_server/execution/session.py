# SPDX-License-Identifier: Apache-2.0
"""Makes ONNX Runtime sessions; the only module that sets providers and options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from attnserve.v1 import manifest_pb2

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
    providers = [("CUDAExecutionProvider", chosen)]
    return onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)


def cuda_options(*, captures: bool) -> dict[str, str]:
    """Options of the CUDA provider: no TF32, and Flash or memory-efficient attention only (by default it prefers cuDNN)."""
    return {"enable_cuda_graph": "1" if captures else "0", "sdpa_kernel": "3", "use_tf32": "0"}


def onnxruntime_version() -> str:
    """Returns the version of the imported ONNX Runtime, of possibly several installed distributions."""
    return str(onnxruntime.__version__)


def resolve_device(device: str) -> str:
    """Resolves "auto": "cuda" if this ONNX Runtime can allocate on a CUDA device, else "cpu".

    Also "cuda" becomes "cpu" if this ONNX Runtime was built without CUDA; the front then ends the start.
    """
    if device == "cpu" or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "cpu"
    if device == "cuda":
        return device
    try:
        _load_cuda()
        onnxruntime.OrtValue.ortvalue_from_shape_and_type([1], np.float32, "cuda", 0)
    except Exception:  # noqa: BLE001  any failure means that there is no usable device
        return "cpu"
    return "cuda"


@cache
def _load_cuda() -> None:
    """Loads the CUDA libraries that were installed as Python packages, which are on no loader path."""
    onnxruntime.preload_dlls()
