# SPDX-License-Identifier: Apache-2.0
"""Finds workers that hang: that have something to do and say nothing."""

from __future__ import annotations

from collections.abc import Iterable, Set

TICKS = 10
"""Time is counted in so many parts of the limit, and not read from a clock: a front that was itself stopped has not yet read what
its workers said meanwhile."""

START_FACTOR = 6
"""A process that has said nothing at all yet (it reads its libraries) has so many times the limit."""


class Watch:
    """Counts the ticks for which each worker has said nothing.

    Args:
        limit_s: a worker that has something to do and is silent for longer hangs.
    """

    def __init__(self, limit_s: float) -> None:
        self.interval_s = limit_s / TICKS
        """Of :meth:`tick`."""
        self._num_silent: dict[str, int] = {}

    def heard(self, worker: str) -> None:
        """A worker has said something."""
        self._num_silent[worker] = 0

    def forget(self, worker: str) -> None:
        """A worker is gone."""
        self._num_silent.pop(worker, None)

    def tick(self, workers: Iterable[str], starting: Set[str], busy: Set[str]) -> list[str]:
        """Returns those that hang.

        Args:
            workers: all that live.
            starting: those that have said nothing yet.
            busy: those that have work, or load a model.
        """
        hanging = []
        for worker in workers:
            self._num_silent[worker] = self._num_silent.get(worker, 0) + 1 if worker in starting or worker in busy else 0
            if self._num_silent[worker] > TICKS * (START_FACTOR if worker in starting else 1):
                hanging.append(worker)
        return hanging
