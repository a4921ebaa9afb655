# SPDX-License-Identifier: Apache-2.0
"""The front's queue: priorities, ageing, fair shares and bounds, by example and against a naive model."""

from __future__ import annotations

import gc
import random
import time
import types
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from attnserve_server.scheduling import clients
from attnserve_server.scheduling.queue import FairQueue, QueueConfig
from tests.fakes.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, limit: int = 100, ageing_s: float = 1.0) -> FairQueue[int]:
    return FairQueue(QueueConfig(limit, ageing_s), clock)


def take(fair: FairQueue[int]) -> int | None:
    number = fair.first()
    if number is not None:
        fair.take(number)
    return number


def add(fair: FairQueue[int], number: int, client: str = "", priority: int = 0, cost: float = 1.0, part: str = "") -> None:
    fair.add(number, number, (client, part), priority, cost)


def take_all(fair: FairQueue[int]) -> list[int]:
    taken = []
    while (number := take(fair)) is not None:
        taken.append(number)
    return taken


# --- Order ---


def test_one_client_is_served_in_its_order(clock: Clock) -> None:
    fair = make(clock)
    for number in range(5):
        add(fair, number)
    assert take_all(fair) == [0, 1, 2, 3, 4]
    assert fair.first() is None
    assert not len(fair)


def test_higher_priority_first(clock: Clock) -> None:
    fair = make(clock)
    for number, priority in enumerate([0, -2, 2, 1, 2, -1]):
        add(fair, number, priority=priority)
    assert take_all(fair) == [2, 4, 3, 0, 5, 1]


@pytest.mark.parametrize("same_client", [True, False])
def test_first_of_a_line_moves_up_a_level_every_second(clock: Clock, same_client: bool) -> None:
    fair = make(clock, ageing_s=1.0)
    add(fair, 0, "low", -2)
    for second in range(4):
        add(fair, 10 + second, "low" if same_client else "high", 2)
        assert take(fair) == 10 + second
        clock.now += 1.0
    add(fair, 20, "low" if same_client else "high", 2)
    assert take(fair) == 0, "at the highest level, it came first"


def test_low_priority_is_not_starved_by_a_flood(clock: Clock) -> None:
    fair = make(clock, limit=10_000)
    add(fair, 0, "low", -2)
    for number in range(1, 1000):
        add(fair, number, f"high {number % 7}", 2)
    waited = 0
    while take(fair) != 0:
        clock.now += 0.01
        waited += 1
        add(fair, 10_000 + waited, f"high {waited % 7}", 2)
    assert 4.0 <= waited * 0.01 <= 4.2


def test_backlog_ages_only_at_its_head(clock: Clock) -> None:
    fair = make(clock)
    for number in range(100):
        add(fair, number, "noisy")
    clock.now += 60  # a long time, for all of them
    assert take(fair) == 0
    add(fair, 1000, "quiet")
    assert take(fair) == 1000, "the next of the backlog has been first for no time"


def test_new_first_ages_from_when_it_became_first(clock: Clock) -> None:
    fair = make(clock)
    add(fair, 1, "a")
    add(fair, 2, "a")
    clock.now += 5
    fair.remove(1)
    add(fair, 3, "b", 1)
    assert fair.first() == 3
    clock.now += 1
    add(fair, 4, "c", 2)
    fair.remove(3)
    add(fair, 5, "b", 1)
    assert fair.first() == 4
    fair.remove(4)
    assert fair.first() == 2, "level 1 by now, and it came before"


# --- Shares ---


def served(fair: FairQueue[int], clients: dict[int, str], num: int) -> Counter[str]:
    return Counter(clients[number] for _ in range(num) if (number := take(fair)) is not None)


def test_clients_share_fairly_by_cost(clock: Clock) -> None:
    fair, clients = make(clock, 10_000), {}
    for number in range(900):
        clients[number] = ("small", "large", "larger")[number % 3]
        add(fair, number, clients[number], cost={"small": 1.0, "large": 4.0, "larger": 10.0}[clients[number]])
    counts = served(fair, clients, 270)
    assert counts["small"] == pytest.approx(200, abs=3)
    assert counts["large"] == pytest.approx(50, abs=2)
    assert counts["larger"] == pytest.approx(20, abs=2)


def test_one_at_a_time_goes_before_a_backlog(clock: Clock) -> None:
    fair = make(clock, 10_000)
    for number in range(1000):
        add(fair, number, "noisy")
    for number in range(100):
        take(fair)
        add(fair, 5000 + number, "quiet")
        served_before = 0
        while take(fair) != 5000 + number:
            served_before += 1
        assert served_before <= 1


def test_idle_client_accumulates_no_credit(clock: Clock) -> None:
    fair, clients = make(clock, 10_000), {}
    for number in range(1000):
        clients[number] = "busy"
        add(fair, number, "busy")
    served(fair, clients, 500)
    for number in range(1000, 1500):
        clients[number] = "back from idling"
        add(fair, number, "back from idling")
    counts = served(fair, clients, 100)
    assert counts["busy"] == pytest.approx(50, abs=1)


def test_use_while_no_other_client_waited_is_not_charged(clock: Clock) -> None:
    fair, clients = make(clock, 10_000), {}
    for number in range(100):
        add(fair, number, "alone")
    take_all(fair)
    for number in range(100):
        clients[number] = "alone" if number % 2 else "new"
        add(fair, number, clients[number])
    assert served(fair, clients, 50)["alone"] == pytest.approx(25, abs=1)


def test_one_waiting_request_at_a_time_gains_no_share(clock: Clock) -> None:
    """A client that keeps one large request waiting at a time gets its share of the cost, not half of the requests."""
    fair, clients = make(clock, 10_000), {}
    for number in range(2000):
        clients[number] = "small"
        add(fair, number, "small", cost=1.0)
    clients[9999] = "large"
    counts: Counter[str] = Counter()
    for _ in range(500):
        if not fair.num_waiting("large"):
            add(fair, 9999, "large", cost=9.0)
        counts += served(fair, clients, 1)
    assert counts["large"] * 9 == pytest.approx(counts["small"], rel=0.1)


def test_request_that_is_put_back_goes_first_and_is_charged_once(clock: Clock) -> None:
    fair = make(clock, limit=4)
    for number in range(4):
        add(fair, number, "a")
    assert [take(fair), take(fair)] == [0, 1]
    add(fair, 9, "b", 2)
    fair.put_back(0, 0)
    fair.put_back(1, 1)
    assert len(fair) == 5, "no limit holds for them"
    assert not fair.has_room("b")
    assert take(fair) == 0
    assert fair.remove(1)
    assert take_all(fair) == [9, 2, 3]


# --- Parts of a client ---


def test_parts_divide_the_share_of_their_client_and_do_not_increase_it(clock: Clock) -> None:
    fair, names = make(clock, 10_000), {}
    for number in range(900):
        client, part = (("many", f"id {number % 7}"), ("many", "id 0"), ("one", ""))[number % 3]
        names[number] = client
        add(fair, number, client, part=part)
    counts = served(fair, names, 300)
    assert counts["many"] == counts["one"] == 150


def test_parts_share_fairly_among_themselves(clock: Clock) -> None:
    fair, names = make(clock, 10_000), {}
    for number in range(400):
        names[number] = "greedy" if number < 300 else "modest"
        add(fair, number, "one", part=names[number])
    counts = served(fair, names, 100)
    assert counts["greedy"] == counts["modest"] == 50


def test_a_part_that_returns_earns_no_credit_for_idling(clock: Clock) -> None:
    fair, names = make(clock, 10_000), {}
    for number in range(200):
        names[number] = "steady"
        add(fair, number, "one", part="steady")
    served(fair, names, 100)
    for number in range(200, 260):
        names[number] = "late"
        add(fair, number, "one", part="late")
    counts = served(fair, names, 40)
    assert counts["late"] == pytest.approx(20, abs=1)


def test_parts_above_the_maximum_wait_as_one(clock: Clock) -> None:
    fair, names = make(clock, 10_000), {}
    for number in range(20 * clients.MAX_PARTS):
        names[number] = "told apart" if number % (2 * clients.MAX_PARTS) < clients.MAX_PARTS - 1 else "together"
        add(fair, number, "one", part=f"id {number % (2 * clients.MAX_PARTS)}")
    counts = served(fair, names, 5 * clients.MAX_PARTS)
    assert counts["told apart"] == pytest.approx(5 * (clients.MAX_PARTS - 1), abs=clients.MAX_PARTS)
    assert len(take_all(fair)) == 15 * clients.MAX_PARTS
    assert len(fair) == 0


def test_many_parts_of_one_client_leave_room_for_others(clock: Clock) -> None:
    for num_parts, most in ((1, 410), (3, 456), (10_000, 416)):  # eight ninths are 455.1; ids above the maximum wait as one part
        fair, number = make(clock, limit=512), 0
        while fair.has_room("noisy", f"id {number % num_parts}"):
            add(fair, number, "noisy", part=f"id {number % num_parts}")
            number += 1
        assert number == most
        assert fair.has_room("quiet", "")


# --- Bounds ---


def fill(fair: FairQueue[int], client: str, first: int) -> int:
    number = first
    while fair.has_room(client):
        add(fair, number, client)
        number += 1
    return number - first


def test_one_client_leaves_room_for_others(clock: Clock) -> None:
    fair = make(clock, limit=500)
    assert fill(fair, "noisy", 0) == 400
    assert fair.has_room("quiet")
    assert fill(fair, "second", 1000) == 80
    assert fill(fair, "third", 2000) == 16
    assert len(fair) < 500


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (2, 2), (4, 4), (5, 4), (8, 7), (10, 8), (512, 410)])
def test_part_of_a_single_client(clock: Clock, limit: int, most: int) -> None:
    assert fill(make(clock, limit), "", 0) == most


def test_request_that_leaves_frees_its_place(clock: Clock) -> None:
    fair = make(clock, limit=2)
    fill(fair, "a", 0)
    assert not fair.has_room("b")
    assert fair.remove(0)
    assert not fair.remove(0)
    assert fair.has_room("b")
    take(fair)
    assert fair.num_waiting("a") == 0


def num_kept(fair: FairQueue[int]) -> int:
    """Objects that a queue keeps alive, without code: detects unbounded growth of any attribute."""
    code = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.MethodType)
    found: dict[int, object] = {}
    new: list[object] = [fair]
    while new:
        found |= {id(each): each for each in new}
        next_ones = {id(each): each for each in gc.get_referents(*new) if not isinstance(each, code)}
        new = [each for key, each in next_ones.items() if key not in found]
    return len(found)


def test_what_is_kept_is_counted(clock: Clock) -> None:
    fair = make(clock, limit=1000)
    before = num_kept(fair)
    fill(fair, "a", 0)
    assert num_kept(fair) > before + 1000


def test_clients_that_left_are_forgotten(clock: Clock) -> None:
    fair = make(clock, limit=10)
    add(fair, 0, "stays", -2)
    for number in range(1, 20_000):
        add(fair, number, f"client {number}", 2, cost=1.0 + number % 3)
        assert take(fair) == number
    most = num_kept(make(clock, limit=10)) + 3 * clients.MAX_REMEMBERED  # a client's name and its tag
    assert num_kept(fair) < most + 100
    take(fair)
    assert num_kept(fair) < num_kept(make(clock, limit=10)) + 100


def test_parts_that_left_are_forgotten(clock: Clock) -> None:
    fair = make(clock, limit=10)
    add(fair, 0, "one", -2, part="stays")
    for number in range(1, 10_000):
        add(fair, number, "one", 2, cost=1.0 + number % 3, part=f"part {number}")
        assert take(fair) == number
    most = num_kept(make(clock, limit=10)) + 3 * clients.MAX_REMEMBERED
    assert num_kept(fair) < most + 100
    take(fair)
    assert num_kept(fair) < num_kept(make(clock, limit=10)) + 100


# --- Cost ahead ---


def test_cost_ahead(clock: Clock) -> None:
    fair = make(clock)
    assert fair.cost_ahead("a", "", 0) == 0
    for number in range(10):
        add(fair, number, "a", cost=3.0)
        add(fair, 100 + number, "b", cost=2.0)
    add(fair, 200, "c", -1, cost=50.0)
    assert fair.cost_ahead("new", "", 0) == 0
    assert fair.cost_ahead("c", "", 0) == 0
    assert fair.cost_ahead("a", "", 0) == 30 + 20
    assert fair.cost_ahead("b", "", 0) == 20 + 20
    assert fair.cost_ahead("a", "", 1) == 0
    assert fair.cost_ahead("c", "", -1) == 50 + 30 + 20
    assert fair.cost == 100


# --- Against a naive model ---


class Naive:
    """The same policy over one list, which computes everything at each call."""

    def __init__(self, clock: Clock, ageing_s: float) -> None:
        self.clock, self.ageing_s = clock, ageing_s
        self.waiting: list[dict] = []
        self.tags: dict[str, float] = {}
        self.virtual = 0.0
        self.part_tags: dict[tuple[str, str], float] = {}
        self.part_virtual: dict[str, float] = {}

    def line(self, one: dict) -> list[dict]:
        keys = ("client", "part", "priority")
        return [each for each in self.waiting if all(each[key] == one[key] for key in keys)]

    def add(self, number: int, client: str, part: str, priority: int, cost: float) -> None:
        if not any(each["client"] == client for each in self.waiting):
            self.tags[client] = max(self.virtual, self.tags.get(client, 0.0))
        if not any((each["client"], each["part"]) == (client, part) for each in self.waiting):
            earlier = self.part_tags.get((client, part), 0.0)
            self.part_tags[client, part] = max(self.part_virtual.get(client, 0.0), earlier)
        entry = {"number": number, "client": client, "part": part, "priority": priority, "cost": cost, "since": self.clock.now}
        self.waiting.append(entry)

    def first(self) -> int | None:
        best = None
        for order, each in enumerate(self.waiting):
            if self.line(each)[0] is not each:
                continue
            level = min(2, each["priority"] + int((self.clock.now - each["since"]) / self.ageing_s))
            rank = (-level, self.tags[each["client"]], self.part_tags[each["client"], each["part"]], order)
            if best is None or rank < best[0]:
                best = rank, each["number"]
        return best[1] if best is not None else None

    def remove(self, number: int, *, is_served: bool) -> None:
        (entry,) = (each for each in self.waiting if each["number"] == number)
        line, client, part = self.line(entry), entry["client"], (entry["client"], entry["part"])
        if is_served:
            self.virtual = max(self.virtual, self.tags[client])
            self.tags[client] += entry["cost"]
            self.part_virtual[client] = max(self.part_virtual.get(client, 0.0), self.part_tags[part])
            self.part_tags[part] += entry["cost"]
        if line[0] is entry and len(line) > 1:
            line[1]["since"] = self.clock.now
        self.waiting.remove(entry)
        if not any(each["client"] == client for each in self.waiting):
            self.part_virtual.pop(client, None)
            self.part_tags = {key: tag for key, tag in self.part_tags.items() if key[0] != client}
        if not self.waiting:
            self.virtual, self.tags = 0.0, {}


CLIENTS = st.sampled_from(["", "a", "b", "c"])
PARTS = st.sampled_from(["", "x", "y"])
COSTS = st.sampled_from([1.0, 2.0, 7.0, 64.0])


class QueueAgainstNaive(RuleBasedStateMachine):
    """Random additions, takes and removals at random times: both give the same results."""

    LIMIT = 12

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.fair = make(self.clock, self.LIMIT, ageing_s=0.5)
        self.naive = Naive(self.clock, 0.5)
        self.next = 0

    @rule(client=CLIENTS, part=PARTS, priority=st.integers(-2, 2), cost=COSTS)
    def add(self, client: str, part: str, priority: int, cost: float) -> None:
        of_client = sum(each["client"] == client for each in self.naive.waiting)
        of_part = sum((each["client"], each["part"]) == (client, part) for each in self.naive.waiting)
        free = self.LIMIT - len(self.naive.waiting)
        assert self.fair.has_room(client, part) == (free > 0 and of_client < 8 * free and of_part < 4 * free)
        if self.fair.has_room(client, part):
            add(self.fair, self.next, client, priority, cost, part)
            self.naive.add(self.next, client, part, priority, cost)
            self.next += 1

    @precondition(lambda self: self.naive.waiting)
    @rule()
    def take(self) -> None:
        expected = self.naive.first()
        assert expected is not None
        assert take(self.fair) == expected
        self.naive.remove(expected, is_served=True)

    @precondition(lambda self: self.naive.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([each["number"] for each in self.naive.waiting]))
        assert self.fair.remove(number)
        self.naive.remove(number, is_served=False)

    @rule(steps=st.integers(1, 12))
    def wait(self, steps: int) -> None:
        self.clock.now += steps * 0.125

    @invariant()
    def both_say_the_same(self) -> None:
        assert self.fair.first() == self.naive.first()
        assert len(self.fair) == len(self.naive.waiting)
        assert sorted(self.fair) == sorted(each["number"] for each in self.naive.waiting)
        assert self.fair.cost == sum(each["cost"] for each in self.naive.waiting)
        for client in ("", "a", "b", "c"):
            assert self.fair.num_waiting(client) == sum(each["client"] == client for each in self.naive.waiting)
            for priority in (-2, 0, 1):
                costs, of_parts = Counter[str](), Counter[str]()
                for each in self.naive.waiting:
                    cost = each["cost"] if each["priority"] >= priority else 0
                    costs[each["client"]] += cost
                    of_parts[each["part"]] += cost if each["client"] == client else 0
                for part in ("", "x", "y"):
                    ahead = sum(min(of_parts[part], cost) for cost in of_parts.values())
                    others = sum(min(ahead, cost) for name, cost in costs.items() if name != client)
                    assert self.fair.cost_ahead(client, part, priority) == ahead + others


TestQueueAgainstNaive = QueueAgainstNaive.TestCase
TestQueueAgainstNaive.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)


class WrongOrder(QueueAgainstNaive):
    """A planted fault: requests age a little too slowly."""

    def __init__(self) -> None:
        super().__init__()
        self.fair = make(self.clock, self.LIMIT, ageing_s=0.625)


def age(machine: QueueAgainstNaive) -> None:
    """A request of a low level rises when another client's request arrives at the next level: the shortest run with a difference."""
    machine.add("a", "", -1, 1.0)
    machine.wait(4)
    machine.add("b", "", 0, 1.0)
    machine.both_say_the_same()


def test_order_that_is_wrong_is_seen() -> None:
    age(QueueAgainstNaive())
    with pytest.raises(AssertionError):
        age(WrongOrder())


# --- Cost ---


def seconds_of(num: int, num_clients: int) -> float:
    clock, rng = Clock(), random.Random(1)
    fair = make(clock, limit=10 * num)
    gc.collect()
    gc.disable()  # a garbage collection visits all objects of the other tests, and is more frequent with a longer queue
    try:
        began = time.process_time()
        for number in range(num):
            add(fair, number, f"client {number % num_clients}", rng.randint(-2, 2))
        for number in rng.sample(range(num), num // 2):
            fair.remove(number)
        while take(fair) is not None:
            clock.now += 0.001
        return time.process_time() - began
    finally:
        gc.enable()


@pytest.mark.parametrize("num_clients", [10, 1_000_000])
@pytest.mark.load
def test_a_long_queue_costs_no_more_for_each(num_clients: int) -> None:
    seconds_of(1000, num_clients)
    small, large = (min(seconds_of(num, num_clients) for _ in range(3)) for num in (500, 8000))
    print(f"{large / 8000 * 1e6:.1f} µs a request in a queue of 8,000, {small / 500 * 1e6:.1f} in one of 500")
    assert large < 16 * 4 * small


def test_places_that_are_not_valid_are_dropped(clock: Clock) -> None:
    fair = make(clock, limit=1000)
    add(fair, 0, "a", -2)
    for number in range(1, 10_000):
        add(fair, number, "a", 2)
        take(fair)
        if number > 10:
            add(fair, 100_000 + number, "b", -1)
            fair.remove(100_000 + number)
    assert num_kept(fair) < num_kept(make(clock, limit=1000)) + 1000  # an entry, or a timer of a rise, has up to five objects
