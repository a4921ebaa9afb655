# SPDX-License-Identifier: Apache-2.0
"""Dynamic batching, with a fake clock."""

from __future__ import annotations

import random
from collections.abc import Hashable

import pytest

from attnserve_server.scheduling.window import Queued, Window, WindowOutput
from tests.fakes.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def add(
    window: Window[Queued], clock: Clock, *ids: int, key: Hashable = "a", most: int = 4, deadline_in: float | None = None
) -> None:
    for each in ids:
        window.add(Queued(each, key, most, None if deadline_in is None else clock.now + deadline_in, clock.now))


def batch(window: Window[Queued]) -> list[int]:
    """The ids of the next batch, where nothing is dropped."""
    output = window.take()
    assert output.drop == []
    return [each.request_id for each in output.batch]


def dropped(output: WindowOutput[Queued]) -> list[tuple[int, str | None]]:
    return [(each.request_id, each.dropped) for each in output.drop]


def test_without_a_window_one_request_runs_at_once(clock: Clock) -> None:
    window = Window[Queued](0.0, clock)
    assert window.due_in() is None
    add(window, clock, 1)
    assert window.due_in() == 0
    assert batch(window) == [1]
    assert window.due_in() is None
    assert batch(window) == []


def test_what_came_during_a_run_is_one_batch_in_order(clock: Clock) -> None:
    window = Window[Queued](0.0, clock)
    add(window, clock, 5, 3, 4, 1, 2)
    assert batch(window) == [5, 3, 4, 1], "four at most"
    assert batch(window) == [2]


def test_batch_waits_for_its_window_from_the_oldest_request_on(clock: Clock) -> None:
    window = Window[Queued](0.010, clock)
    add(window, clock, 1)
    assert window.due_in() == pytest.approx(0.010)
    assert batch(window) == []
    clock.now += 0.006
    add(window, clock, 2)
    assert window.due_in() == pytest.approx(0.004), "the second request does not prolong it"
    clock.now += 0.0039
    assert batch(window) == []
    clock.now += 0.0002
    assert window.due_in() == 0
    assert batch(window) == [1, 2]


def test_full_batch_does_not_wait(clock: Clock) -> None:
    window = Window[Queued](0.010, clock)
    add(window, clock, 1, 2, 3)
    assert batch(window) == []
    add(window, clock, 4, 5)
    assert window.due_in() == 0
    assert batch(window) == [1, 2, 3, 4]
    assert window.due_in() == pytest.approx(0.010)
    assert batch(window) == [], "the fifth waits for its own window"


def test_only_equal_keys_share_a_batch_and_the_oldest_request_is_first(clock: Clock) -> None:
    window = Window[Queued](0.0, clock)
    for number, key in enumerate("abacb"):
        add(window, clock, number, key=key)
        clock.now += 0.001
    assert [batch(window) for _ in range(4)] == [[0, 2], [1, 4], [3], []]


def test_batch_that_is_not_due_holds_up_no_full_one(clock: Clock) -> None:
    window = Window[Queued](0.010, clock)
    add(window, clock, 1, key="a")
    clock.now += 0.001
    add(window, clock, 2, 3, key="b", most=2)
    assert batch(window) == [2, 3]
    assert batch(window) == []
    clock.now += 0.0091
    assert batch(window) == [1]


def test_largest_batch_belongs_to_the_key(clock: Clock) -> None:
    window = Window[Queued](0.0, clock)
    add(window, clock, 1, 2, key="with attention", most=1)
    add(window, clock, 3, 4, key="without", most=8)
    assert [batch(window) for _ in range(3)] == [[1], [2], [3, 4]]


def test_cancelled_request_is_dropped_and_its_batch_runs_without_it(clock: Clock) -> None:
    window = Window[Queued](0.010, clock)
    add(window, clock, 1, 2)
    window.cancel(1, "client")
    window.cancel(99, "client")
    assert window.due_in() == 0, "to say so"
    output = window.take()
    assert (dropped(output), output.batch) == ([(1, "client")], [])
    clock.now += 0.0101
    assert batch(window) == [2]
    window.cancel(2, "client")
    assert window.due_in() is None, "it has run"


def test_request_whose_deadline_passes_is_dropped_then(clock: Clock) -> None:
    window = Window[Queued](1.0, clock)
    add(window, clock, 1, deadline_in=0.1)
    add(window, clock, 2, deadline_in=0.5)
    add(window, clock, 3)
    assert window.due_in() == pytest.approx(0.1)
    clock.now += 0.2
    assert dropped(window.take()) == [(1, "deadline")]
    assert window.due_in() == pytest.approx(0.3)
    clock.now += 0.3
    window.cancel(2, "client")
    assert dropped(window.take()) == [(2, "client")], "the first reason counts"
    clock.now += 0.5
    assert batch(window) == [3]


def test_any_requests_run_once_in_order_of_their_key_and_never_late(clock: Clock) -> None:
    rng, window_s, step_s = random.Random(0), 0.01, 0.001
    window, added = Window[Queued](window_s, clock), dict[int, Queued]()
    ended = list[int]()
    for number in range(3000):
        clock.now += step_s * rng.random()
        key = rng.choice("abc")
        deadline = clock.now + 0.02 * rng.random() if rng.random() < 0.1 else None
        added[number] = Queued(number, key, 1 + ord(key) - ord("a"), deadline, clock.now)
        window.add(added[number])
        if rng.random() < 0.1:
            window.cancel(rng.randrange(number + 1), "client")
        while window.due_in() == 0:
            output = window.take()
            assert output.batch or output.drop, "it was due"
            ended += [each.request_id for each in (*output.batch, *output.drop)]
            assert len({each.key for each in output.batch}) <= 1
            assert len(output.batch) <= max((each.max_batch for each in output.batch), default=0)
            assert all(each.dropped is None for each in output.batch)
            assert all(clock.now - each.queued_at <= window_s + 2 * step_s for each in output.batch)
            order = [each.request_id for each in output.batch]
            assert order == sorted(order)
    assert len(ended) == len(set(ended)) == len(added) - len(window)
