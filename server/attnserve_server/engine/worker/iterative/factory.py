# SPDX-License-Identifier: Apache-2.0
"""Makes engines of iterative models: an engine loop over a runner."""

from __future__ import annotations

import time
from collections.abc import Callable

from attnserve_server.bundle.loader import Bundle
from attnserve_server.config import EngineConfig
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.execution.factory import make_runner
from attnserve_server.scheduling.scheduler import SchedulerConfig


def make_engine(bundle: Bundle, config: EngineConfig) -> EngineLoop:
    """Makes the engine of the kind ``ITERATIVE``."""
    scheduling = SchedulerConfig(config.slots, config.admit_wait_seconds, max_encoded=bundle.max_encoded)
    return make_loop(bundle, scheduling, time.monotonic, stream_interval_s=config.stream_interval_seconds)


def make_loop(
    bundle: Bundle,
    config: SchedulerConfig,
    clock: Callable[[], float],
    *,
    stream_interval_s: float = 0.0,
    captures: bool = True,
) -> EngineLoop:
    """Makes an engine loop, not started; with ``captures``, steps on CUDA replay captured CUDA graphs."""
    runner = make_runner(bundle, config.num_slots, captures=captures)
    return EngineLoop(runner, config, clock, stream_interval_s=stream_interval_s)
