# SPDX-License-Identifier: Apache-2.0
"""Chooses which engine of a worker steps next: models share its time fairly, whatever the length of their steps. Policy only."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

EngineT = TypeVar("EngineT", bound=Hashable)


class TimeSlices:
    """The time that each engine has used, as a virtual time that all share.

    Of the engines with work, the one with the least time steps next. An engine that was idle starts at the least time of the active
    ones, or at its own if that is later: idling earns no time, and time used while no other engine had work is not charged.
    """

    def __init__(self) -> None:
        self._used: dict[Hashable, float] = {}
        self._least = 0.0

    def choose(self, active: Sequence[EngineT]) -> EngineT:
        """Returns the engine that steps next; ``active`` are the engines with work, at least one."""
        chosen = min(active, key=lambda engine: max(self._used.get(engine, 0.0), self._least))
        self._least = max(self._used.get(chosen, 0.0), self._least)
        return chosen

    def charge(self, engine: Hashable, seconds: float) -> None:
        """Charges the time of a step to the chosen engine."""
        self._used[engine] = self._least + seconds

    def forget(self, engine: Hashable) -> None:
        """Removes an engine."""
        self._used.pop(engine, None)
