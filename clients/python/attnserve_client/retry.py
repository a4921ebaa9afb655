# SPDX-License-Identifier: Apache-2.0
"""Decides whether and when a failed call is retried, and how much of its time is left. The clients wait."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from attnserve_client.errors import AttnserveError, ServerUnreachable, TlsFailed


def is_retryable(error: AttnserveError) -> bool:
    """Tells whether the same request may succeed later: the server was unreachable or busy.

    RESOURCE_EXHAUSTED without a reason or a retry delay means a message that is too large, which a retry does not change.
    """
    if error.code == "RESOURCE_EXHAUSTED":
        return bool(error.reason) or error.retry_after_s is not None
    return (error.code == "UNAVAILABLE" or isinstance(error, ServerUnreachable)) and not isinstance(error, TlsFailed)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with jitter.

    Attributes:
        retries: maximum number of attempts after the first one; 0 for none, None for as many as the call's deadline allows.
        initial_backoff_s: wait before the first retry, in seconds.
        multiplier: factor between successive waits.
        max_backoff_s: maximum wait without jitter, in seconds; a delay that the server requests may be longer.
        jitter: share by which a wait is randomly shortened or lengthened, below 1.
    """

    retries: int | None = None
    initial_backoff_s: float = 0.1
    multiplier: float = 2.0
    max_backoff_s: float = 2.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        """Validates the policy.

        Raises:
            ValueError: a value is out of range; the text names it.
        """
        for name in ("retries", "initial_backoff_s", "max_backoff_s"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.multiplier < 1:
            raise ValueError(f"multiplier must be at least 1, not {self.multiplier}")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must be at least 0 and below 1, not {self.jitter}")

    def backoff_s(self, attempt: int, error: AttnserveError, draw: float) -> float:
        """Returns the wait after a failed attempt in seconds, at least the delay that the server requested.

        Args:
            attempt: number of the failed attempt, from 1.
            error: its error.
            draw: a random number in [0, 1).
        """
        try:
            backoff = min(self.max_backoff_s, self.initial_backoff_s * self.multiplier ** (attempt - 1))
        except OverflowError:
            backoff = self.max_backoff_s
        backoff *= 1 + self.jitter * (2 * draw - 1)
        return max(backoff, (error.retry_after_s or 0.0) * (1 + self.jitter * draw))


NO_RETRIES = RetryPolicy(retries=0)


def policy_of(retries: int | RetryPolicy) -> RetryPolicy:
    """Returns the policy itself, or the default one with this number of retries."""
    return retries if isinstance(retries, RetryPolicy) else RetryPolicy(retries=retries)


MAX_TIMEOUT_S = 1e8
"""Three years, the longest timeout that gRPC sends; above some 9e9 s its own arithmetic overflows, and the call expires at once."""


class Attempts:
    """The attempts of one call, which share its deadline; the clock starts at construction.

    Args:
        policy: number and timing of retries.
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
        """Returns the remaining seconds, at least 0; None without a deadline."""
        return None if math.isinf(self._deadline) else min(max(0.0, self._deadline - self._clock()), MAX_TIMEOUT_S)

    def delay_or_raise(self, error: AttnserveError) -> float:
        """Counts a failed attempt; returns the seconds to wait before the next one, or raises ``error`` if there is none.

        Raises:
            AttnserveError: see ``delay_after``.
        """
        delay = self.delay_after(error)
        if delay is None:
            raise error
        return delay

    def delay_after(self, error: AttnserveError) -> float | None:
        """Counts a failed attempt; returns the seconds to wait before the next one.

        Returns None if there is no next attempt: the error is not retryable, no retries are left, or the wait would pass the
        deadline.
        """
        self._num_failed += 1
        has_more = self._policy.retries is None or self._num_failed <= self._policy.retries
        if not has_more or not is_retryable(error):
            return None
        delay = self._policy.backoff_s(self._num_failed, error, self._draw())
        return delay if self._clock() + delay < self._deadline else None
