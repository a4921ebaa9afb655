# SPDX-License-Identifier: Apache-2.0
"""Makes engines of single-pass models."""

from __future__ import annotations

import time

from attnserve_server.bundle.loader import Bundle
from attnserve_server.config import EngineConfig
from attnserve_server.engine.worker.single_pass.engine import PassEngine
from attnserve_server.execution.factory import make_pass_runner


def make_engine(bundle: Bundle, config: EngineConfig) -> PassEngine:
    """Makes the engine of the kind ``SINGLE_PASS``."""
    batches = config.batches_of(bundle.manifest.model_id)
    return PassEngine(make_pass_runner(bundle, batches.max_batch), batches.window_seconds, time.monotonic)
