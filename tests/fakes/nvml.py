# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the module ``pynvml``: devices of 80 GiB."""

from __future__ import annotations

import types
from collections.abc import MutableSequence

GIB = 2**30


class NoDevice(Exception):
    """In place of ``pynvml.NVMLError``."""


def fake_nvml(used: MutableSequence[int], uuids: tuple[str, ...] = ()) -> types.ModuleType:
    """Returns the module.

    Args:
        used: memory in use of each device, in bytes; changes are seen.
        uuids: their names.
    """
    module = types.ModuleType("pynvml")
    module.__dict__.update(
        NVMLError=NoDevice,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=range(len(used)).__getitem__,
        nvmlDeviceGetHandleByUUID=uuids.index,
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(used=used[handle], total=80 * GIB),
    )
    return module
