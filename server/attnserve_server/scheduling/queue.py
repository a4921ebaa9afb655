# SPDX-License-Identifier: Apache-2.0
"""The front's queue of one model: order of service and admission. Policy only: no tensors, no sockets.

* A client names itself in *parts*, such as its connections. A part has one FIFO lane per priority. The first request of a lane
  rises one level every ``ageing_s``, up to the highest, so no request starves. It ages from when it *became* first, so a backlog
  does not age past other clients.
* Among the first requests of all lanes, the highest level is served first; then the client with the least service; then the part
  of it with the least; then the oldest. So parts divide their client's service, and more parts do not increase it.
* "Least service" is start-time fair queueing (Goyal et al. 1996): serving a request advances its client's tag by the request's
  cost. The queue's virtual time is the largest tag served so far. A client that returns from idling starts at the virtual time:
  idling earns no credit, and service received while no other client waited is not charged.
* The queue is bounded, and so are shares (Choudhury and Hahne 1998): a part may have at most four times as many waiting requests as
  there are free places, a client eight times. A single part can fill four fifths of the queue and a single client eight ninths,
  which leaves room for others; with more clients the share of each is smaller.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from attnserve_server.request import MAX_PRIORITY, MIN_PRIORITY
from attnserve_server.scheduling.clients import Client, Entry, Lane, Part, VirtualTime

CLIENT_SHARE, PART_SHARE = 8, 4
"""Maximum ratio of a client's, and of a part's, waiting requests to the queue's free places."""

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


class FairQueue(Generic[T]):
    """Waiting requests by their number.

    Each level has a heap of lanes, ordered by their client's tag; outdated heap entries are skipped when they reach the top. So
    every operation is logarithmic in the number of waiting clients, except :meth:`cost_ahead`, which is linear.
    """

    def __init__(self, config: QueueConfig, clock: Callable[[], float]) -> None:
        self.config, self._clock = config, clock
        self._clients: dict[str, Client[T]] = {}
        self._entries: dict[int, Entry[T]] = {}
        self._returned: OrderedDict[int, T] = OrderedDict()
        self._places: dict[int, list[tuple[float, float, int, int, Lane[T]]]] = {
            level: [] for level in range(MAX_PRIORITY, MIN_PRIORITY - 1, -1)
        }
        self._rises: list[tuple[float, int, Lane[T]]] = []
        self._num_lanes = self._num_places = 0
        self.cost = 0.0
        """Cost of all waiting requests, except those put back."""
        self._time = VirtualTime()
        self._orders, self._stamps = itertools.count(), itertools.count()

    def __len__(self) -> int:
        return len(self._entries) + len(self._returned)

    def __iter__(self) -> Iterator[T]:
        """Yields all waiting requests, in no particular order."""
        yield from self._returned.values()
        yield from (entry.item for entry in self._entries.values())

    def oldest(self) -> list[T]:
        """Returns the request that was put back first, and the one that was added first, as far as there are any."""
        found = [next(iter(self._returned.values()))] if self._returned else []
        if self._entries:
            found.append(next(iter(self._entries.values())).item)
        return found

    def num_waiting(self, client: str) -> int:
        """Returns the number of a client's waiting requests."""
        found = self._clients.get(client)
        return found.num_waiting if found is not None else 0

    def has_room(self, client: str, part: str = "") -> bool:
        """Whether one more request of this part of a client may wait."""
        num_free, found = self.config.limit - len(self), self._clients.get(client)
        if found is None or num_free <= 0:
            return num_free > 0
        own = found.parts.get(found.key_of(part))
        return found.num_waiting < CLIENT_SHARE * num_free and (own is None or own.num_waiting < PART_SHARE * num_free)

    def add(self, number: int, item: T, source: tuple[str, str], priority: int, cost: float) -> None:
        """Queues a request.

        Args:
            number: identifies it.
            item: the request.
            source: its client and part. The caller checks :meth:`has_room` first.
            priority: its own.
            cost: of its service, in any unit.
        """
        found = self._clients.get(source[0])
        if found is None:
            found = self._clients[source[0]] = Client(source[0], self._time.tag_of(source[0]))
        name = found.key_of(source[1])
        part = found.parts.get(name)
        if part is None:
            part = found.parts[name] = Part(name, found.time.tag_of(name))
        lane = part.lanes.get(priority)
        if lane is None:
            lane = part.lanes[priority] = Lane(found, part, priority)
            self._num_lanes += 1
        entry = lane.entries[number] = self._entries[number] = Entry(item, lane, cost, next(self._orders))
        lane.cost += cost
        self.cost += cost
        found.num_waiting += 1
        part.num_waiting += 1
        if lane.first is None:
            self._begin(lane, entry)

    def put_back(self, number: int, item: T) -> None:
        """Queues a request that was taken but not served, ahead of all others; not charged again, and exempt from the limit."""
        self._returned[number] = item

    def first(self) -> T | None:
        """Returns the next request; None if the queue is empty."""
        if self._returned:
            return next(iter(self._returned.values()))
        if not self._entries:
            return None
        self._rise()
        for places in self._places.values():
            while places and places[0][3] != places[0][4].stamp:
                heapq.heappop(places)
                self._num_places -= 1
            if places:
                entry = places[0][4].first
                assert entry is not None, "a lane with a valid place is not empty"
                return entry.item
        return None

    def take(self, number: int) -> None:
        """Removes a request to serve it, and charges its client."""
        if self._returned.pop(number, None) is not None:
            return
        entry = self._entries[number]
        client, part = entry.lane.client, entry.lane.part
        self._time.serve(client.tag)
        client.time.serve(part.tag)
        client.tag += entry.cost
        part.tag += entry.cost
        self._remove(number, entry)
        for waiting in client.parts.values():
            for lane in waiting.lanes.values():
                self._place(lane)

    def remove(self, number: int) -> bool:
        """Removes a cancelled request; returns whether it was waiting."""
        if self._returned.pop(number, None) is not None:
            return True
        entry = self._entries.get(number)
        if entry is not None:
            self._remove(number, entry)
        return entry is not None

    def cost_ahead(self, client: str, part: str, priority: int) -> float:
        """Returns a lower bound of the cost served before a new request of this part, if no waiting request is cancelled.

        That is the part's own cost at this priority or above, that of every other part of its client up to the same cost, and that
        of every other client up to the sum of these.
        """
        found = self._clients.get(client)
        own = found.parts.get(found.key_of(part)) if found is not None else None
        share = own.cost_from(priority) if own is not None else 0.0
        if found is None or not share:
            return 0.0
        ahead = sum(min(share, each.cost_from(priority)) for each in found.parts.values())
        return ahead + sum(min(ahead, each.cost_from(priority)) for each in self._clients.values() if each is not found)

    def _remove(self, number: int, entry: Entry[T]) -> None:
        lane, client, part = entry.lane, entry.lane.client, entry.lane.part
        del self._entries[number], lane.entries[number]
        lane.cost -= entry.cost
        self.cost -= entry.cost
        client.num_waiting -= 1
        part.num_waiting -= 1
        if not lane.entries:
            lane.first, lane.stamp = None, -1
            del part.lanes[lane.priority]
            self._num_lanes -= 1
        elif lane.first is entry:
            self._begin(lane, next(iter(lane.entries.values())))
        if not part.lanes:
            del client.parts[part.name]
            client.time.leave(part.name, part.tag)
        if not client.parts:
            del self._clients[client.name]
            self._time.leave(client.name, client.tag)
            client.time.reset()  # outdated heap entries keep the client
        if not self._clients:
            self._time.reset()

    def _begin(self, lane: Lane[T], first: Entry[T]) -> None:
        """Makes a request the first of its lane; it ages from now on."""
        lane.first, lane.level, lane.rises_at = first, lane.priority, self._clock()
        self._place(lane)
        self._plan_rise(lane, first)

    def _place(self, lane: Lane[T]) -> None:
        """Pushes a lane onto the heap of its level; its previous heap entry becomes invalid."""
        assert lane.first is not None, "only lanes with requests have places"
        lane.stamp = next(self._stamps)
        heapq.heappush(self._places[lane.level], (lane.client.tag, lane.part.tag, lane.first.order, lane.stamp, lane))
        self._num_places += 1
        self._tidy()

    def _plan_rise(self, lane: Lane[T], first: Entry[T]) -> None:
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
        if self._num_places > 64 + 4 * self._num_lanes:
            for level, places in self._places.items():
                self._places[level] = [place for place in places if place[3] == place[4].stamp]
                heapq.heapify(self._places[level])
            self._num_places = sum(map(len, self._places.values()))
        if len(self._rises) > 64 + 4 * self._num_lanes:
            self._rises = [rise for rise in self._rises if rise[2].first is not None and rise[2].first.order == rise[1]]
            heapq.heapify(self._rises)
