# SPDX-License-Identifier: Apache-2.0
"""Checks of the device: its name, whether it can be used, the time of a launch and of a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime

from attnserve_loadtest.gpu.context import Context, torch_device
from attnserve_loadtest.gpu.results import NoDevice, Skip, note


def provider_problem() -> str:
    """Why this build of ONNX Runtime cannot use CUDA on any machine; empty if it can. Calls no driver."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime has no CUDA provider: install onnxruntime-gpu in place of onnxruntime"
    return ""


def environment(_context: Context, figures: dict[str, Any]) -> None:
    """Reports the versions, and checks that the device can be used and holds what is written to it.

    Raises:
        NoDevice: it cannot be used.
    """
    figures["onnxruntime"] = onnxruntime.__version__
    figures["providers"] = onnxruntime.get_available_providers()
    if problem := provider_problem():
        raise NoDevice(problem)
    try:
        onnxruntime.preload_dlls()
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type([4], np.float32, "cuda", 0)
        value.update_inplace(np.arange(4, dtype=np.float32))
    except Exception as error:
        raise NoDevice(f"no CUDA device can be used: {str(error).splitlines()[0]}") from error
    assert value.device_name() == "cuda"
    assert value.numpy().tolist() == [0, 1, 2, 3]


def floor(context: Context, figures: dict[str, Any]) -> None:
    """The time of a graph node, a copy and a wait, see ``floor.py``."""
    device = torch_device()
    if device == "cpu" and context.looks_at_values:
        raise Skip("PyTorch has no CUDA here")
    from attnserve_loadtest.gpu.floor import Floor

    found = Floor(device).measure()
    figures |= found
    nodes = f"us a graph node {found['us_a_node_64_rows']} (64 rows), {found['us_a_node_1024_rows']} (1024)"
    copies = f"copy up {found['up_2k_us']}, down {found['down_2k_us']}, a row {found['row_copy_us']} us"
    name = f"{found.get('gpu', device)}, torch {found['torch']}"
    note(figures, name, f"{nodes}, {copies}, {found['copy_bytes_per_second'] / 1e12:.2f} TB/s")
