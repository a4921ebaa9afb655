# SPDX-License-Identifier: Apache-2.0
"""Limits the number of concurrent calls and keeps their outcomes in order. Shared by both clients; not thread-safe."""

from __future__ import annotations

from typing import Generic, TypeVar

_T = TypeVar("_T")

_BUFFERED_PER_RUNNING = 4
"""Maximum of started and untaken calls, as a multiple of ``max_in_flight``: finished calls may wait for a slow one before them."""


class OrderedWindow(Generic[_T]):
    """Numbers calls as they start; outcomes are taken in that order, whatever their order of arrival.

    Args:
        max_in_flight: maximum number of running calls, at least 1.
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
        """Tells whether the outcomes of all started calls have been taken."""
        return self._num_started == self._num_taken

    def start(self) -> int:
        """Counts a started call; returns its number."""
        self._num_running += 1
        self._num_started += 1
        return self._num_started - 1

    def finish(self, index: int, outcome: _T) -> None:
        """Records the outcome of call number ``index``, once."""
        self._num_running -= 1
        self._finished[index] = outcome

    def take_ready(self) -> list[_T]:
        """Removes and returns the outcomes that are next in order; the list may be empty."""
        ready: list[_T] = []
        while self._num_taken in self._finished:
            ready.append(self._finished.pop(self._num_taken))
            self._num_taken += 1
        return ready
