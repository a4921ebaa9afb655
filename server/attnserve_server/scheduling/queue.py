# SPDX-License-Identifier: Apache-2.0
"""The front's queue of one model: order of service and admission. Policy only: no tensors, no sockets.

* A client has one FIFO lane per priority. The first request of a lane rises one level every ``ageing_s``, up to the highest, so no
  request starves. It ages from when it *became* first, so a client's backlog does not age past other clients.
* Among the first requests of all lanes, the highest level is served first; then the client with the least service; then the oldest.
* "Least service" is start-time fair queueing (Goyal et al. 1996): serving a request advances its client's tag by the request's
  cost. The queue's virtual time is the largest tag served so far. A client that returns from idling starts at the virtual time:
  idling earns no credit, and service received while no other client waited is not charged.
* The queue is bounded, and so is each client's share: at most four times the free places (Choudhury and Hahne 1998). A single
  client can fill four fifths of the queue, which leaves room for others; with more clients the share of each is smaller.
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
"""Maximum ratio of a client's waiting requests to the queue's free places."""

MAX_REMEMBERED = 1024
"""Maximum number of clients without waiting requests whose tags, ahead of the virtual time, are kept."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """Limits of a queue.

    Args:
        limit: maximum number of waiting requests.
        ageing_s: seconds after which the first request of a lane rises one level.
    """

    limit: int
    ageing_s: float = 1.0


@dataclass(slots=True)
class _Entry(Generic[T]):
    """A waiting request."""

    item: T
    lane: _Lane[T]
    cost: float
    order: int


@dataclass(slots=True, eq=False)
class _Lane(Generic[T]):
    """The waiting requests of one client and one priority. An ordered dictionary removes its first entry in constant time."""

    client: _Client[T]
    priority: int
    entries: OrderedDict[int, _Entry[T]] = field(default_factory=OrderedDict)
    cost: float = 0.0
    level: int = 0
    """Current level of its first request."""
    rises_at: float = 0.0
    first: _Entry[T] | None = None
    stamp: int = -1
    """Stamp of its only valid heap entry."""


@dataclass(slots=True, eq=False)
class _Client(Generic[T]):
    """A client with waiting requests."""

    name: str
    tag: float
    """Virtual time at which its next request starts: its service so far, on a scale shared by all clients."""
    lanes: dict[int, _Lane[T]] = field(default_factory=dict)
    num_waiting: int = 0

    def cost_from(self, priority: int) -> float:
        """Returns the cost of its requests with at least this priority."""
        return sum(lane.cost for level, lane in self.lanes.items() if level >= priority)


class FairQueue(Generic[T]):
    """Waiting requests by their number.

    Each level has a heap of lanes, ordered by their client's tag; outdated heap entries are skipped when they reach the top. So
    every operation is logarithmic in the number of waiting clients, except :meth:`cost_ahead`, which is linear.
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
        """Cost of all waiting requests, except those put back."""
        self._remembered: dict[str, float] = {}
        self._now = 0.0
        self._orders, self._stamps = itertools.count(), itertools.count()

    def __len__(self) -> int:
        return len(self._entries) + len(self._returned)

    def __iter__(self) -> Iterator[T]:
        """Yields all waiting requests, in no particular order."""
        yield from self._returned.values()
        yield from (entry.item for entry in self._entries.values())

    def num_waiting(self, client: str) -> int:
        """Returns the number of a client's waiting requests."""
        found = self._clients.get(client)
        return found.num_waiting if found is not None else 0

    def has_room(self, client: str) -> bool:
        """Whether one more request of this client may wait."""
        num_free = self.config.limit - len(self)
        return num_free > 0 and self.num_waiting(client) < CLIENT_SHARE * num_free

    def add(self, number: int, item: T, client: str, priority: int, cost: float) -> None:
        """Queues a request. The caller checks :meth:`has_room` first. ``cost`` is its service cost, in any unit."""
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
        """Queues a request that was taken but not served, ahead of all others; not charged again, and exempt from the limit."""
        self._returned[number] = item

    def first(self) -> T | None:
        """Returns the next request; None if the queue is empty."""
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
        """Removes a request to serve it, and charges its client."""
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
        """Removes a cancelled request; returns whether it was waiting."""
        if self._returned.pop(number, None) is not None:
            return True
        entry = self._entries.get(number)
        if entry is not None:
            self._remove(number, entry)
        return entry is not None

    def cost_ahead(self, client: str, priority: int) -> float:
        """Returns a lower bound of the cost served before a new request of this client, if no waiting request is cancelled.

        That is the client's own cost at this priority or above, and of every other client up to the same cost.
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
        """Makes a request the first of its lane; it ages from now on."""
        lane.first, lane.level, lane.rises_at = first, lane.priority, self._clock()
        self._place(lane)
        self._plan_rise(lane, first)

    def _place(self, lane: _Lane[T]) -> None:
        """Pushes a lane onto the heap of its level; its previous heap entry becomes invalid."""
        assert lane.first is not None, "only lanes with requests have places"
        lane.stamp = next(self._stamps)
        heapq.heappush(self._places[lane.level], (lane.client.tag, lane.first.order, lane.stamp, lane))
        self._tidy()

    def _plan_rise(self, lane: _Lane[T], first: _Entry[T]) -> None:
        if lane.level < MAX_PRIORITY:
            lane.rises_at += self.config.ageing_s
            heapq.heappush(self._rises, (lane.rises_at, first.order, lane))

    def _rise(self) -> None:
        """Raises every lane whose first request has waited long enough."""
        now = self._clock()
        while self._rises and self._rises[0][0] <= now:
            _, order, lane = heapq.heappop(self._rises)
            if lane.first is not None and lane.first.order == order:
                lane.level += 1
                self._place(lane)
                self._plan_rise(lane, lane.first)

    def _tidy(self) -> None:
        """Removes invalid heap entries once they are the majority."""
        if sum(map(len, self._places.values())) > 64 + 4 * self._num_lanes:
            for level, places in self._places.items():
                self._places[level] = [place for place in places if place[2] == place[3].stamp]
                heapq.heapify(self._places[level])
        if len(self._rises) > 64 + 4 * self._num_lanes:
            self._rises = [rise for rise in self._rises if rise[2].first is not None and rise[2].first.order == rise[1]]
            heapq.heapify(self._rises)

    def _remember(self, client: str, tag: float) -> None:
        """Keeps the tag of a client without waiting requests until the virtual time reaches it or the queue is empty."""
        if not self._clients:
            self._remembered.clear()
            self._now = 0.0
        elif tag > self._now:
            self._remembered[client] = tag
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered = {name: served_to for name, served_to in self._remembered.items() if served_to > self._now}
            if len(self._remembered) > MAX_REMEMBERED:  # each is ahead by less than one request's cost, so this is harmless
                self._remembered.clear()
