# SPDX-License-Identifier: Apache-2.0
"""Estimates lower bounds of the wait and service times of one model's requests from recent answers. Policy only.

The estimates serve to refuse requests that would clearly miss their deadline, so they are optimistic, and zero without evidence:
while no request waits, before enough answers, and when the answers are old. A wrong estimate therefore corrects itself: if it
refuses all requests, the queue becomes empty, and if no request is answered any more, the evidence expires.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

MIN_ANSWERS = 8
"""Minimum number of answers for an estimate."""

MAX_ANSWERS = 256
WINDOW_S = 10.0
"""Older answers are dropped."""


@dataclass(frozen=True, slots=True)
class _Answer:
    finished_at: float
    cost: float
    step_s: float
    steps_per_token: float


class ServiceEstimator:
    """Recent answers that were completed while requests were waiting.

    Args:
        clock: monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answers: deque[_Answer] = deque(maxlen=MAX_ANSWERS)
        self._is_backlogged = False

    def set_waiting(self, num_waiting: int) -> None:
        """Sets the queue length. Only during a backlog does the answer rate equal the engines' capacity."""
        self._is_backlogged = num_waiting > 0
        if not self._is_backlogged:
            self._answers.clear()

    def answered(self, cost: float, service_s: float, num_steps: int, num_source: int = 1) -> None:
        """Adds one answer: cost of the request, time and steps from its admission to its end, source tokens."""
        if self._is_backlogged:
            step_s, steps_per_token = service_s / max(num_steps, 1), num_steps / max(num_source, 1)
            self._answers.append(_Answer(self._clock(), cost, step_s, steps_per_token))

    def wait_s(self, cost: float) -> float:
        """Returns the time to answer requests of this total cost at the current rate; 0 without evidence."""
        answers = self._evidence()
        if not answers:
            return 0.0
        served = sum(answer.cost for answer in answers) - answers[0].cost
        return cost * (self._clock() - answers[0].finished_at) / served if served > 0 else 0.0

    def service_s(self, max_steps: int, num_source: int = 1) -> float:
        """Returns the minimum service time of a request of ``num_source`` tokens and at most ``max_steps``; 0 without evidence."""
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
