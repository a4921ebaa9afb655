# SPDX-License-Identifier: Apache-2.0
"""The front's queue of one model: who goes next, and who may still come in. Policy alone: no tensors, no sockets.

* A client has one lane for each priority, first come first served. Who is first in a lane moves up a level every ``ageing_s``, as
  far as the highest one, so nobody waits for ever; it ages from when it *became* first, so no backlog ages past other clients.
* Of all who are first in a lane, the highest level goes first; of equals, the client that was served least; then who came first.
* "Served least" is start-time fair queuing (Goyal et al. 1996): taking a request moves its client's tag on by the request's cost.
  The queue's virtual time is the largest tag that was served, and who comes back from idling starts there: idling hoards no
  credit, and what was used while nobody else waited is held against nobody.
* The queue is bounded, and so is each client's part of it: at most four times what is still free (Choudhury and Hahne 1998). Alone,
  a client fills four fifths of the queue; there is room for others then, and the more there are, the less one may have.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from attnserve_server.request import MAX_PRIORITY, MIN_PRIORITY

CLIENT_SHARE = 4
"""A client may have at most so many times the queue's free places."""

MAX_REMEMBERED = 1024
"""Clients that have left, but were served beyond the virtual time: so many are remembered."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """Limits of a queue.

    Args:
        limit: requests that may wait.
        ageing_s: seconds after which who is first in a lane moves up a level.
    """

    limit: int
    ageing_s: float = 1.0


@dataclass(slots=True)
class _Entry(Generic[T]):
    """A request that waits."""

    item: T
    lane: _Lane[T]
    cost: float
    order: int


@dataclass(slots=True, eq=False)
class _Lane(Generic[T]):
    """The waiting requests of one client and one priority. Ordered dictionaries take from the front in constant time."""

    client: _Client[T]
    priority: int
    entries: OrderedDict[int, _Entry[T]] = field(default_factory=OrderedDict)
    cost: float = 0.0
    level: int = 0
    """That of its first request now."""
    rises_at: float = 0.0
    first: _Entry[T] | None = None
    stamp: int = -1
    """Of its one valid place among the lanes of its level."""


@dataclass(slots=True, eq=False)
class _Client(Generic[T]):
    """A client that has requests waiting."""

    name: str
    tag: float
    """The virtual time at which its next request starts: what it was served, on a scale that all clients share."""
    lanes: dict[int, _Lane[T]] = field(default_factory=dict)
    num_waiting: int = 0

    def cost_from(self, priority: int) -> float:
        """Cost of its requests with at least this priority."""
        return sum(lane.cost for level, lane in self.lanes.items() if level >= priority)


class FairQueue(Generic[T]):
    """Requests that wait, by their number.

    Lanes stand in one heap for each level, by their client's tag; a place that is no longer valid is passed over when it comes up.
    So no operation costs more than the logarithm of the number of clients that wait, but those that say what is ahead: they look at
    each client.
    """

    def __init__(self, config: QueueConfig, clock: Callable[[], float]) -> None:
        self.config, self._clock = config, clock
        self._clients: dict[str, _Client[T]] = {}
        self._entries: dict[int, _Entry[T]] = {}
        self._returned: OrderedDict[int, T] = OrderedDict()
        self._places: dict[int, list[tuple[float, int, int, _Lane[T]]]] = {
            level: [] for level in range(MAX_PRIORITY, MIN_PRIORITY - 1, -1)
        }
        self._rises: list[tuple[float, int, _Lane[T]]] = []
        self._num_lanes = 0
        self.cost = 0.0
        """Of all that waits, but for what was put back."""
        self._remembered: dict[str, float] = {}
        self._now = 0.0
        self._orders, self._stamps = itertools.count(), itertools.count()

    def __len__(self) -> int:
        return len(self._entries) + len(self._returned)

    def __iter__(self) -> Iterator[T]:
        """All that waits, in no order of interest."""
        yield from self._returned.values()
        yield from (entry.item for entry in self._entries.values())

    def num_waiting(self, client: str) -> int:
        """Requests of one client."""
        found = self._clients.get(client)
        return found.num_waiting if found is not None else 0

    def has_room(self, client: str) -> bool:
        """Whether one more request of this client may wait."""
        num_free = self.config.limit - len(self)
        return num_free > 0 and self.num_waiting(client) < CLIENT_SHARE * num_free

    def add(self, number: int, item: T, client: str, priority: int, cost: float) -> None:
        """Queues a request; whether there is room is for the caller to ask. ``cost`` is what serving it takes, in any unit."""
        found = self._clients.get(client)
        if found is None:
            found = self._clients[client] = _Client(client, max(self._now, self._remembered.pop(client, 0.0)))
        lane = found.lanes.get(priority)
        if lane is None:
            lane = found.lanes[priority] = _Lane(found, priority)
            self._num_lanes += 1
        entry = lane.entries[number] = self._entries[number] = _Entry(item, lane, cost, next(self._orders))
        lane.cost += cost
        self.cost += cost
        found.num_waiting += 1
        if lane.first is None:
            self._begin(lane, entry)

    def put_back(self, number: int, item: T) -> None:
        """Queues before all others what was taken, but could not be served. It was paid for, and no limit holds for it."""
        self._returned[number] = item

    def first(self) -> T | None:
        """Who goes next; None where nobody waits."""
        if self._returned:
            return next(iter(self._returned.values()))
        self._rise()
        for places in self._places.values():
            while places and places[0][2] != places[0][3].stamp:
                heapq.heappop(places)
            if places:
                entry = places[0][3].first
                assert entry is not None, "a lane with a valid place is not empty"
                return entry.item
        return None

    def take(self, number: int) -> None:
        """Takes a request out in order to serve it: its client pays for it."""
        if self._returned.pop(number, None) is not None:
            return
        entry = self._entries[number]
        client = entry.lane.client
        self._now = max(self._now, client.tag)
        client.tag += entry.cost
        self._remove(number, entry)
        for lane in client.lanes.values():
            self._place(lane)

    def remove(self, number: int) -> bool:
        """Takes out a request that nobody wants any more; returns whether it was here."""
        if self._returned.pop(number, None) is not None:
            return True
        entry = self._entries.get(number)
        if entry is not None:
            self._remove(number, entry)
        return entry is not None

    def cost_ahead(self, client: str, priority: int) -> float:
        """At least so much is served before a new request of this client, as long as the others that wait stay.

        That is the client's own at this priority or above, and of every other client as much, if it has so much.
        """
        own = self._clients.get(client)
        share = own.cost_from(priority) if own is not None else 0.0
        if not share:
            return 0.0
        return sum(min(share, each.cost_from(priority)) for each in self._clients.values())

    def _remove(self, number: int, entry: _Entry[T]) -> None:
        lane, client = entry.lane, entry.lane.client
        del self._entries[number], lane.entries[number]
        lane.cost -= entry.cost
        self.cost -= entry.cost
        client.num_waiting -= 1
        if not lane.entries:
            lane.first, lane.stamp = None, -1
            del client.lanes[lane.priority]
            self._num_lanes -= 1
        elif lane.first is entry:
            self._begin(lane, next(iter(lane.entries.values())))
        if not client.lanes:
            del self._clients[client.name]
            self._remember(client.name, client.tag)

    def _begin(self, lane: _Lane[T], first: _Entry[T]) -> None:
        """A lane has another first request, which ages from now on."""
        lane.first, lane.level, lane.rises_at = first, lane.priority, self._clock()
        self._place(lane)
        self._plan_rise(lane, first)

    def _place(self, lane: _Lane[T]) -> None:
        """Gives a lane its place among those of its level; the one that it had before is no longer valid."""
        assert lane.first is not None, "only lanes with requests have places"
        lane.stamp = next(self._stamps)
        heapq.heappush(self._places[lane.level], (lane.client.tag, lane.first.order, lane.stamp, lane))
        self._tidy()

    def _plan_rise(self, lane: _Lane[T], first: _Entry[T]) -> None:
        if lane.level < MAX_PRIORITY:
            lane.rises_at += self.config.ageing_s
            heapq.heappush(self._rises, (lane.rises_at, first.order, lane))

    def _rise(self) -> None:
        """Moves up every lane whose first request has been that for long enough."""
        now = self._clock()
        while self._rises and self._rises[0][0] <= now:
            _, order, lane = heapq.heappop(self._rises)
            if lane.first is not None and lane.first.order == order:
                lane.level += 1
                self._place(lane)
                self._plan_rise(lane, lane.first)

    def _tidy(self) -> None:
        """Drops places that are not valid, where they have become the most."""
        if sum(map(len, self._places.values())) > 64 + 4 * self._num_lanes:
            for level, places in self._places.items():
                self._places[level] = [place for place in places if place[2] == place[3].stamp]
                heapq.heapify(self._places[level])
        if len(self._rises) > 64 + 4 * self._num_lanes:
            self._rises = [rise for rise in self._rises if rise[2].first is not None and rise[2].first.order == rise[1]]
            heapq.heapify(self._rises)

    def _remember(self, client: str, tag: float) -> None:
        """Keeps what a leaving client was served ahead of the others, until these have caught up or all is served."""
        if not self._clients:
            self._remembered.clear()
            self._now = 0.0
        elif tag > self._now:
            self._remembered[client] = tag
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered = {name: served_to for name, served_to in self._remembered.items() if served_to > self._now}
            if len(self._remembered) > MAX_REMEMBERED:  # each is less than one request's cost: forgotten without harm
                self._remembered.clear()
