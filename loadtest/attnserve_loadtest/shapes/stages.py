# SPDX-License-Identifier: Apache-2.0
"""A shape as a list of stages. Locust's options scale it: ``--users`` is the maximum, ``--run-time`` the total time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from locust import LoadTestShape
from locust.util.timespan import parse_timespan

DEFAULT_USERS, DEFAULT_SECONDS = 32, 60


@dataclass(frozen=True, slots=True)
class Stage:
    """A share of the time, and the share of the users that are active in it."""

    time_share: float
    user_share: float


class StagedShape(LoadTestShape):
    """Goes through its stages, and ends."""

    abstract = True
    use_common_options = True
    stages: ClassVar[tuple[Stage, ...]] = ()

    def tick(self) -> tuple[int, float] | None:
        """The number of users now, and how many may start per second; None when the time is over."""
        options: Any = self.runner.environment.parsed_options if self.runner else None
        users = getattr(options, "num_users", None) or DEFAULT_USERS
        seconds = _seconds(getattr(options, "run_time", None))
        passed: float = self.get_run_time()  # type: ignore[no-untyped-call]
        return at(self.stages, passed / seconds, users)


def at(stages: tuple[Stage, ...], share: float, users: int) -> tuple[int, float] | None:
    """The number of users, and of starts per second, after this share of the time; None after the end."""
    for stage in stages:
        if share < stage.time_share:
            return max(1, round(stage.user_share * users)), float(users)
        share -= stage.time_share
    return None


def _seconds(run_time: Any) -> float:
    if not run_time:
        return DEFAULT_SECONDS
    return float(parse_timespan(run_time) if isinstance(run_time, str) else run_time)
