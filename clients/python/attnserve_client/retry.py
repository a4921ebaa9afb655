# SPDX-License-Identifier: Apache-2.0
"""When a failed call is tried again, and how much of its time is left. Only decides: the clients do the waiting."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from attnserve_client.errors import AttnserveError


def is_retryable(error: AttnserveError) -> bool:
    """Tells whether the same request may succeed later: the server was away or busy.

    RESOURCE_EXHAUSTED without a reason or a time to wait is a message that is too large, which no retry makes smaller.
    """
    if error.code == "RESOURCE_EXHAUSTED":
        return bool(error.reason) or error.retry_after_s is not None
    return error.code == "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with jitter.

    Attributes:
        retries: attempts after the first one; 0 for none.
        initial_backoff_s: wait before the first retry, in seconds.
        multiplier: by how much each further wait is longer.
        max_backoff_s: longest wait, jitter aside; what a server asks for may be longer.
        jitter: by which share of it a wait may be shorter or longer, below 1.
    """

    retries: int = 4
    initial_backoff_s: float = 0.1
    multiplier: float = 2.0
    max_backoff_s: float = 2.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        """Refuses a policy that makes no sense.

        Raises:
            ValueError: naming what is out of range.
        """
        for name in ("retries", "initial_backoff_s", "max_backoff_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.multiplier < 1:
            raise ValueError(f"multiplier must be at least 1, not {self.multiplier}")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must be at least 0 and below 1, not {self.jitter}")

    def backoff_s(self, attempt: int, error: AttnserveError, draw: float) -> float:
        """Returns the wait after a failed attempt, never less than what the server asked for.

        Args:
            attempt: its number, from 1.
            error: what it ended with.
            draw: a random number in [0, 1).
        """
        backoff = min(self.max_backoff_s, self.initial_backoff_s * self.multiplier ** (attempt - 1))
        backoff *= 1 + self.jitter * (2 * draw - 1)
        return max(backoff, (error.retry_after_s or 0.0) * (1 + self.jitter * draw))


NO_RETRIES = RetryPolicy(retries=0)


def policy_of(retries: int | RetryPolicy) -> RetryPolicy:
    """Returns the policy itself, or the default one with this number of retries."""
    return retries if isinstance(retries, RetryPolicy) else RetryPolicy(retries=retries)


class Attempts:
    """The attempts at one call, which share its deadline; the clock starts here.

    Args:
        policy: how often and when to try again.
        timeout_s: seconds for all attempts together; ``math.inf`` for no deadline.
        clock: monotonic seconds.
        draw: random numbers in [0, 1).
    """

    __slots__ = ("_clock", "_deadline", "_draw", "_num_failed", "_policy")

    def __init__(
        self,
        policy: RetryPolicy,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._policy, self._clock, self._draw = policy, clock, draw
        self._deadline = clock() + timeout_s
        self._num_failed = 0

    def remaining_s(self) -> float | None:
        """Returns the seconds that are left, not below 0; None without a deadline."""
        return None if math.isinf(self._deadline) else max(0.0, self._deadline - self._clock())

    def delay_or_raise(self, error: AttnserveError) -> float:
        """Counts an attempt that failed; returns the seconds to wait before the next one, or raises ``error`` if there is none.

        Raises:
            AttnserveError: see ``delay_after``.
        """
        delay = self.delay_after(error)
        if delay is None:
            raise error
        return delay

    def delay_after(self, error: AttnserveError) -> float | None:
        """Counts an attempt that failed; returns the seconds to wait before the next one.

        None means that there is to be none: it cannot help, there were enough, or the wait would pass the deadline.
        """
        self._num_failed += 1
        if self._num_failed > self._policy.retries or not is_retryable(error):
            return None
        delay = self._policy.backoff_s(self._num_failed, error, self._draw())
        return delay if self._clock() + delay < self._deadline else None
