# SPDX-License-Identifier: Apache-2.0
"""How long requests of one model wait and run at least, judged by what was answered lately. Policy alone.

An estimate is for refusing what clearly cannot be in time, so it errs on the side of hope, and is zero without evidence: while
nobody waits (an idle server is never too slow), before some answers were seen, and when these are old. So a wrong estimate heals
by itself: if it refuses everything, the queue runs empty, and if nothing is answered any more, the evidence expires.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

MIN_ANSWERS = 8
"""Fewer are no evidence."""

MAX_ANSWERS = 256
WINDOW_S = 10.0
"""Older answers are forgotten."""


@dataclass(frozen=True, slots=True)
class _Answer:
    finished_at: float
    cost: float
    step_s: float
    steps_per_token: float


class ServiceEstimator:
    """What was answered lately while requests were waiting."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answers: deque[_Answer] = deque(maxlen=MAX_ANSWERS)
        self._is_backlogged = False

    def set_waiting(self, num_waiting: int) -> None:
        """Says how many wait now. Only in a backlog do answers come as fast as the engines can."""
        self._is_backlogged = num_waiting > 0
        if not self._is_backlogged:
            self._answers.clear()

    def answered(self, cost: float, service_s: float, num_steps: int, num_source: int = 1) -> None:
        """Takes one answer: its request's cost, time and steps from admission into a batch to the end, and source tokens."""
        if self._is_backlogged:
            step_s, steps_per_token = service_s / max(num_steps, 1), num_steps / max(num_source, 1)
            self._answers.append(_Answer(self._clock(), cost, step_s, steps_per_token))

    def wait_s(self, cost: float) -> float:
        """So long it takes at the present rate until requests of this cost are answered; 0 where that is not known."""
        answers = self._evidence()
        if not answers:
            return 0.0
        served = sum(answer.cost for answer in answers) - answers[0].cost
        return cost * (self._clock() - answers[0].finished_at) / served if served > 0 else 0.0

    def service_s(self, max_steps: int, num_source: int = 1) -> float:
        """A request of so many source tokens, which may take so many steps, runs at least so long; 0 where that is not known."""
        answers = self._evidence()
        if not answers:
            return 0.0
        num_steps = min(max_steps, num_source * min(answer.steps_per_token for answer in answers))
        return num_steps * min(answer.step_s for answer in answers)

    def _evidence(self) -> deque[_Answer]:
        oldest = self._clock() - WINDOW_S
        while self._answers and self._answers[0].finished_at < oldest:
            self._answers.popleft()
        return self._answers if len(self._answers) >= MIN_ANSWERS else deque()
