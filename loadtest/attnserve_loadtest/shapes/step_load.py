# SPDX-License-Identifier: Apache-2.0
"""More users at every step, until the run time or the greatest number: where does latency leave its floor?"""

from __future__ import annotations

from locust import LoadTestShape


class StepLoad(LoadTestShape):
    """``--users`` at the end, in steps of a tenth, each of a tenth of ``--run-time``."""

    use_common_options = True
    num_steps = 10

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how fast they come."""
        options = self.runner.environment.parsed_options  # type: ignore[union-attr]
        length = options.run_time / self.num_steps
        step = int(self.get_run_time() / length) + 1
        return None if step > self.num_steps else (max(1, options.num_users * step // self.num_steps), 1000.0)
