# SPDX-License-Identifier: Apache-2.0
"""Puts a runner on the memory of the variant's device: the one place that knows both."""

from __future__ import annotations

import functools
from pathlib import Path

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.execution.cuda import CudaMemory
from attnserve_server.execution.host import HostMemory
from attnserve_server.execution.runner import IterativeRunner


def make_profiled_runner(bundle: Bundle, num_slots: int, folder: Path) -> IterativeRunner:
    """A runner on the CPU whose steps note what each node takes, into files of ``folder``; not yet started."""
    return IterativeRunner(bundle, num_slots, functools.partial(HostMemory, profile=folder))


def make_runner(bundle: Bundle, num_slots: int, *, captures: bool = True) -> IterativeRunner:
    """A runner of a bundle's chosen variant, not yet started; on CUDA its steps are replayed graphs where it ``captures``."""
    is_cuda = bundle.variant.device == manifest_pb2.DEVICE_CUDA
    return IterativeRunner(bundle, num_slots, functools.partial(CudaMemory, captures=captures) if is_cuda else HostMemory)
