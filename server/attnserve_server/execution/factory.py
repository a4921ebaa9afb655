# SPDX-License-Identifier: Apache-2.0
"""Makes runners with the memory of the variant's device; the only module that imports the memories of both devices."""

from __future__ import annotations

import functools
from pathlib import Path

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.execution.cuda import CudaMemory
from attnserve_server.execution.host import HostMemory
from attnserve_server.execution.pass_cuda import CudaPasses
from attnserve_server.execution.pass_host import HostPasses
from attnserve_server.execution.pass_runner import PassRunner
from attnserve_server.execution.runner import IterativeRunner


def make_profiled_runner(bundle: Bundle, num_slots: int, folder: Path) -> IterativeRunner:
    """Makes a runner on the CPU whose steps write node times to files in ``folder``; it is not started."""
    return IterativeRunner(bundle, num_slots, functools.partial(HostMemory, profile=folder))


def make_runner(bundle: Bundle, num_slots: int, *, captures: bool = True) -> IterativeRunner:
    """Makes a runner of a bundle's variant, not started; with ``captures``, steps on CUDA replay captured CUDA graphs."""
    is_cuda = bundle.variant.device == manifest_pb2.DEVICE_CUDA
    return IterativeRunner(bundle, num_slots, functools.partial(CudaMemory, captures=captures) if is_cuda else HostMemory)


def make_pass_runner(bundle: Bundle, max_batch: int, *, captures: bool = True) -> PassRunner:
    """Makes a runner of a single-pass bundle's variant, not started; with ``captures``, it replays CUDA graphs on CUDA."""
    is_cuda = bundle.variant.device == manifest_pb2.DEVICE_CUDA
    return PassRunner(bundle, max_batch, functools.partial(CudaPasses, captures=captures) if is_cuda else HostPasses)
