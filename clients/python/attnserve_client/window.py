# SPDX-License-Identifier: Apache-2.0
"""Keeps many calls in flight and their answers in order. Pure book-keeping, shared by both clients; not thread-safe."""

from __future__ import annotations

from typing import Generic, TypeVar

_T = TypeVar("_T")

_BUFFERED_PER_RUNNING = 4
"""How many times ``max_in_flight`` may be open at once: what waits, answered, for a slow one before it does not stop the rest."""


class OrderedWindow(Generic[_T]):
    """Calls numbered as they start; outcomes leave in that order, whenever they arrived.

    Args:
        max_in_flight: how many may run at once, at least 1.
    """

    def __init__(self, max_in_flight: int) -> None:
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {max_in_flight}")
        self._max_in_flight = max_in_flight
        self._num_running = 0
        self._num_started = 0
        self._num_taken = 0
        self._finished: dict[int, _T] = {}

    def has_room(self) -> bool:
        """Tells whether another call may start."""
        num_open = self._num_started - self._num_taken
        return self._num_running < self._max_in_flight and num_open < _BUFFERED_PER_RUNNING * self._max_in_flight

    def is_empty(self) -> bool:
        """Tells whether everything that started has been taken."""
        return self._num_started == self._num_taken

    def start(self) -> int:
        """Counts a call in; returns its number."""
        self._num_running += 1
        self._num_started += 1
        return self._num_started - 1

    def finish(self, index: int, outcome: _T) -> None:
        """Records the outcome of call number ``index``, once."""
        self._num_running -= 1
        self._finished[index] = outcome

    def take_ready(self) -> list[_T]:
        """Takes out the outcomes whose turn has come, in order; maybe none."""
        ready: list[_T] = []
        while self._num_taken in self._finished:
            ready.append(self._finished.pop(self._num_taken))
            self._num_taken += 1
        return ready
