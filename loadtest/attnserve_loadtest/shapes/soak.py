# SPDX-License-Identifier: Apache-2.0
"""The same load for long, with a slow tide of a quarter up and down: does anything grow that should not?"""

from __future__ import annotations

import math

from locust import LoadTestShape


class Soak(LoadTestShape):
    """Around three quarters of ``--users``, a whole tide in a tenth of ``--run-time``."""

    use_common_options = True
    num_tides = 10

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how fast they come."""
        options = self.runner.environment.parsed_options  # type: ignore[union-attr]
        share = self.get_run_time() / options.run_time
        if share >= 1:
            return None
        return max(1, round(options.num_users * (0.75 + 0.25 * math.sin(2 * math.pi * self.num_tides * share)))), 10.0
