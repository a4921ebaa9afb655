# SPDX-License-Identifier: Apache-2.0
"""A fifth of the users, all of them at once for a while, a fifth again: is what was refused or slow over when the spike is?"""

from __future__ import annotations

from locust import LoadTestShape


class Spike(LoadTestShape):
    """``--users`` in the middle fifth of ``--run-time``, a fifth of them else."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how fast they come."""
        options = self.runner.environment.parsed_options  # type: ignore[union-attr]
        share = self.get_run_time() / options.run_time
        if share >= 1:
            return None
        return (options.num_users if 0.4 <= share < 0.6 else max(1, options.num_users // 5)), 1000.0
