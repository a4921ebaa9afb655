# SPDX-License-Identifier: Apache-2.0
"""Dynamic batching of requests that one run of one graph answers: policy only, over ids and keys; no tensors, graphs or sockets.

Requests with the same key may share a run. A batch is due when it is full, or when its oldest request has waited for the window;
with a window of 0, as soon as the engine is free. Of the batches that are due, the one with the oldest request runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar


@dataclass(slots=True, eq=False)
class Queued:
    """A request that waits for a batch. Subclasses add the engine's own data."""

    request_id: int
    key: Hashable
    """Requests with equal keys may share a batch."""
    max_batch: int
    """Maximum number of requests in a batch of this key, the same for all of them."""
    deadline: float | None
    queued_at: float
    dropped: str | None = field(default=None, kw_only=True)
    """Why it is dropped: "client", "deadline" …; None if it is not."""


EntryT = TypeVar("EntryT", bound=Queued)


@dataclass(slots=True)
class WindowOutput(Generic[EntryT]):
    """Decisions for one run: drop, then run the batch."""

    batch: list[EntryT] = field(default_factory=list)
    """Requests of the next run, oldest first; empty if no batch is due."""
    drop: list[EntryT] = field(default_factory=list)
    """Requests to drop; their ``dropped`` is the reason."""


class Window(Generic[EntryT]):
    """The queue of one engine.

    Args:
        window_s: longest wait of a request for others with its key, in seconds; 0 for none.
        clock: monotonic.
    """

    def __init__(self, window_s: float, clock: Callable[[], float]) -> None:
        self._window_s, self._clock = window_s, clock
        self._groups: dict[Hashable, dict[int, EntryT]] = {}
        self._keys: dict[int, Hashable] = {}
        """By request, in the order in which they came."""
        self._has_dropped = False
        self._first_deadline = math.inf

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, request: EntryT) -> None:
        """Queues a request."""
        self._groups.setdefault(request.key, {})[request.request_id] = request
        self._keys[request.request_id] = request.key
        if request.deadline is not None:
            self._first_deadline = min(self._first_deadline, request.deadline)

    def cancel(self, request_id: int, reason: str) -> None:
        """Drops a request at the next decision; ignores unknown ids, of requests that have run."""
        key = self._keys.get(request_id)
        if key is not None:
            self._groups[key][request_id].dropped, self._has_dropped = reason, True

    def due_in(self) -> float | None:
        """Returns the seconds until :meth:`take` has something to return, 0 if it has now; None while no request is queued."""
        if not self._keys:
            return None
        if self._has_dropped:
            return 0.0
        first = min(self._due_at(group) for group in self._groups.values())
        return max(min(first, self._first_deadline) - self._clock(), 0.0)

    def take(self) -> WindowOutput[EntryT]:
        """Decides the next run; what it returns is no longer queued."""
        now = self._clock()
        output = WindowOutput[EntryT](drop=self._dropped(now))
        oldest = next((group for group in map(self._groups.__getitem__, self._keys.values()) if self._due_at(group) <= now), None)
        if oldest is not None:
            output.batch = list(islice(oldest.values(), _first(oldest).max_batch))
            self._remove(output.batch)
        return output

    def _due_at(self, group: dict[int, EntryT]) -> float:
        first = _first(group)
        return -math.inf if len(group) >= first.max_batch else first.queued_at + self._window_s

    def _dropped(self, now: float) -> list[EntryT]:
        """Removes and returns the requests that are cancelled, or whose deadline has passed."""
        if not self._has_dropped and now < self._first_deadline:
            return []
        for each in self._all():
            if each.dropped is None and each.deadline is not None and each.deadline <= now:
                each.dropped = "deadline"
        drop = [each for each in self._all() if each.dropped is not None]
        self._remove(drop)
        self._has_dropped = False
        return drop

    def _all(self) -> Iterator[EntryT]:
        return (each for group in self._groups.values() for each in group.values())

    def _remove(self, requests: list[EntryT]) -> None:
        for each in requests:
            key = self._keys.pop(each.request_id)
            group = self._groups[key]
            del group[each.request_id]
            if not group:
                del self._groups[key]
        self._first_deadline = min((each.deadline for each in self._all() if each.deadline is not None), default=math.inf)


def _first(group: dict[int, EntryT]) -> EntryT:
    return next(iter(group.values()))
