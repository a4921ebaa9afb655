# SPDX-License-Identifier: Apache-2.0
"""Which engine of a worker steps next: models share its time fairly, however long their steps are. Policy alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

EngineT = TypeVar("EngineT", bound=Hashable)


class TimeSlices:
    """The time that each engine has used, on a scale that all share.

    Of the engines with work, the one that has used least steps next. One that had none starts where the least of the active ones
    is (but not before its own last use): idling hoards no time, and what was used alone is held against nobody.
    """

    def __init__(self) -> None:
        self._used: dict[Hashable, float] = {}
        self._least = 0.0

    def choose(self, active: Sequence[EngineT]) -> EngineT:
        """The engine that steps next; ``active`` are those with work, at least one."""
        chosen = min(active, key=lambda engine: max(self._used.get(engine, 0.0), self._least))
        self._least = max(self._used.get(chosen, 0.0), self._least)
        return chosen

    def charge(self, engine: Hashable, seconds: float) -> None:
        """Notes what a step of the chosen engine took."""
        self._used[engine] = self._least + seconds

    def forget(self, engine: Hashable) -> None:
        """An engine is no longer there."""
        self._used.pop(engine, None)
