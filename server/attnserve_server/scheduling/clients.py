# SPDX-License-Identifier: Apache-2.0
"""The members of a fair queue: clients, their parts, and the virtual time by which each group of them is served."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MAX_REMEMBERED = 1024
"""Maximum number of members without waiting requests whose tags, ahead of the virtual time, are kept."""

MAX_PARTS = 32
"""Maximum number of parts of a client that are told apart while they wait; further ones wait as one part."""

OTHERS = ""
"""Name of the part that collects those above the maximum."""

T = TypeVar("T")


class VirtualTime:
    """The largest tag served so far, and the tags of members that have left but are ahead of it."""

    __slots__ = ("_now", "_remembered")

    def __init__(self) -> None:
        self._now = 0.0
        self._remembered: dict[str, float] = {}

    def tag_of(self, name: str) -> float:
        """Returns the tag with which a member begins to wait: idling earns no credit."""
        return max(self._now, self._remembered.pop(name, 0.0))

    def serve(self, tag: float) -> None:
        """Advances to the tag of a member that is served."""
        self._now = max(self._now, tag)

    def leave(self, name: str, tag: float) -> None:
        """Keeps the tag of a member that no longer waits, until the virtual time reaches it."""
        if tag <= self._now:
            return
        self._remembered[name] = tag
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered = {name: served_to for name, served_to in self._remembered.items() if served_to > self._now}
        if len(self._remembered) > MAX_REMEMBERED:  # each is ahead by less than one request's cost, so this is harmless
            self._remembered.clear()

    def reset(self) -> None:
        """Begins anew, when no member waits."""
        self._now = 0.0
        self._remembered.clear()


@dataclass(slots=True)
class Entry(Generic[T]):
    """A waiting request."""

    item: T
    lane: Lane[T]
    cost: float
    order: int


@dataclass(slots=True, eq=False)
class Lane(Generic[T]):
    """The waiting requests of one part and one priority. An ordered dictionary removes its first entry in constant time."""

    client: Client[T]
    part: Part[T]
    priority: int
    entries: OrderedDict[int, Entry[T]] = field(default_factory=OrderedDict)
    cost: float = 0.0
    level: int = 0
    """Current level of its first request."""
    rises_at: float = 0.0
    first: Entry[T] | None = None
    stamp: int = -1
    """Stamp of its only valid heap entry."""


@dataclass(slots=True, eq=False)
class Part(Generic[T]):
    """A part of a client, with waiting requests."""

    name: str
    tag: float
    """As that of the client, on a scale shared by its parts."""
    lanes: dict[int, Lane[T]] = field(default_factory=dict)
    num_waiting: int = 0

    def cost_from(self, priority: int) -> float:
        """Returns the cost of its requests with at least this priority."""
        return sum(lane.cost for level, lane in self.lanes.items() if level >= priority)


@dataclass(slots=True, eq=False)
class Client(Generic[T]):
    """A client with waiting requests."""

    name: str
    tag: float
    """Virtual time at which its next request starts: its service so far, on a scale shared by all clients."""
    parts: dict[str, Part[T]] = field(default_factory=dict)
    time: VirtualTime = field(default_factory=VirtualTime)
    """That of its parts."""
    num_waiting: int = 0

    def key_of(self, part: str) -> str:
        """Returns the name under which a part waits: its own, or that of the part which collects those above the maximum."""
        return part if part in self.parts or len(self.parts) < MAX_PARTS else OTHERS

    def cost_from(self, priority: int) -> float:
        """Returns the cost of its requests with at least this priority."""
        return sum(part.cost_from(priority) for part in self.parts.values())
