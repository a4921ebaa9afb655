# SPDX-License-Identifier: Apache-2.0
"""Memory of the GPU that the workers use, read through NVML. Without a GPU, or without nvidia-ml-py, there are no series."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from attnserve_server.metrics.sampled import Sample, SampledGauge

log = logging.getLogger(__name__)


class DeviceMetrics:
    """Makes the gauges of a device's memory.

    The memory in use is that of all processes on the device: NVML names processes by the machine's process ids, which differ from
    those that a container sees.

    Args:
        register: adds a collector to the registry.
    """

    def __init__(self, register: Callable[[SampledGauge], None]) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        self._name = ""
        used = "Memory in use on the workers' device, by all processes, in bytes."
        limit = "Memory of the workers' device, in bytes."
        register(SampledGauge("attnserve_device_memory_bytes", used, ("device",), lambda: self._read("used")))
        register(SampledGauge("attnserve_device_memory_limit_bytes", limit, ("device",), lambda: self._read("total")))

    def watch(self, device: str, environ: Mapping[str, str] = os.environ) -> None:
        """From now on the gauges have series, if ``device`` is "cuda" and NVML can be used; the log says why it cannot."""
        if device != "cuda":
            return
        try:
            nvml: Any = importlib.import_module("pynvml")
            nvml.nvmlInit()
            self._handle = _handle_of(nvml, environ.get("CUDA_VISIBLE_DEVICES", ""))
            self._name, self._nvml = f"{device}:0", nvml
        except Exception as error:  # noqa: BLE001  a library that is missing, too old, or without rights: the server serves without it
            log.warning("the device's memory is not measured: %s: %s", type(error).__name__, error)

    def _read(self, part: str) -> list[Sample]:
        if self._nvml is None:
            return []
        try:
            return [((self._name,), float(getattr(self._nvml.nvmlDeviceGetMemoryInfo(self._handle), part)))]
        except self._nvml.NVMLError:
            return []  # a driver that is reset or updated: there is no value


def _handle_of(nvml: Any, visible: str) -> Any:
    """Returns the first device of ``CUDA_VISIBLE_DEVICES``, which CUDA calls 0; its numbers are NVML's if all devices are equal."""
    first = visible.split(",")[0].strip()
    if first and not first.isdecimal():
        return nvml.nvmlDeviceGetHandleByUUID(first)
    return nvml.nvmlDeviceGetHandleByIndex(int(first or 0))
