# SPDX-License-Identifier: Apache-2.0
"""Admission, with a fake clock."""

from __future__ import annotations

import random

import pytest

from attnserve_server.scheduling.scheduler import Scheduler, SchedulerConfig, Waiting
from tests.fakes.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def scheduler(clock: Clock, num_slots: int = 8, **knobs: float) -> Scheduler:
    return Scheduler(SchedulerConfig(num_slots, **{"admit_wait_s": 0.01, **knobs}), clock)  # type: ignore[arg-type]


def add(queue: Scheduler, clock: Clock, *ids: int, rows: int = 1, tokens: int = 10, deadline: float | None = None) -> None:
    for each in ids:
        queue.add(Waiting(each, rows, tokens, deadline, clock.now))


def test_idle_engine_admits_at_once(clock: Clock) -> None:
    queue = scheduler(clock)
    assert not queue.has_work
    add(queue, clock, 1)
    assert queue.has_work
    assert queue.schedule().admitted == [1]
    assert (queue.num_rows, queue.num_waiting) == (1, 0)
    queue.finish(1)
    assert not queue.has_work


def test_group_is_taken_together_and_in_order(clock: Clock) -> None:
    queue = scheduler(clock)
    add(queue, clock, 5, 3, 4, 1)
    assert queue.schedule().admitted == [5, 3, 4, 1]


def test_small_group_waits_for_more_requests_beside_a_large_batch(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=32, busy_share=0.125)
    add(queue, clock, *range(16))
    assert len(queue.schedule().admitted) == 16
    add(queue, clock, 100, 101)
    assert queue.schedule().admitted == []  # 2 < 1 + 16 / 8
    add(queue, clock, 102)
    assert queue.schedule().admitted == [100, 101, 102]


def test_lone_request_waits_no_longer_than_it_must(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=32)
    add(queue, clock, *range(16))
    queue.schedule()
    clock.now += 1
    assert queue.schedule().admitted == []
    add(queue, clock, 100)
    clock.now += 0.009
    assert queue.schedule().admitted == []
    clock.now += 0.0011
    assert queue.schedule().admitted == [100]


def test_wait_counts_from_the_beginning_of_the_step_that_ran_meanwhile(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=32)
    add(queue, clock, *range(16))
    queue.schedule()
    clock.now += 0.011
    add(queue, clock, 100)
    assert queue.schedule().admitted == [100]


def test_wait_is_counted_from_when_there_was_room(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=16)
    add(queue, clock, *range(16))
    queue.schedule()
    add(queue, clock, 100)
    clock.now += 5
    assert queue.schedule().admitted == []
    queue.finish(0)
    assert queue.schedule().admitted == []
    clock.now += 0.011
    assert queue.schedule().admitted == [100]


def test_beams_count_as_many_rows(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=8)
    add(queue, clock, 1, rows=5)
    add(queue, clock, 2, rows=3)
    add(queue, clock, 3, rows=1)
    assert queue.schedule().admitted == [1, 2]
    assert queue.num_rows == 8
    queue.finish(2)
    clock.now += 1
    assert queue.schedule().admitted == [3]
    assert queue.num_rows == 6


def test_no_request_overtakes_a_beam_that_does_not_fit_yet(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=8)
    add(queue, clock, 1, rows=5)
    queue.schedule()
    add(queue, clock, 2, rows=5)
    add(queue, clock, 3, rows=1)
    clock.now += 10
    assert queue.schedule().admitted == []
    queue.finish(1)
    clock.now += 10
    assert queue.schedule().admitted == [2, 3]


def test_encoder_run_is_bounded_while_others_decode(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=32, max_encode_tokens=100)
    add(queue, clock, 1)
    assert queue.schedule().admitted == [1]
    add(queue, clock, 2, 3, 4, 5, tokens=40)
    clock.now += 1
    assert queue.schedule().admitted == [2, 3]
    clock.now += 1
    assert queue.schedule().admitted == [4, 5]


def test_source_above_the_bound_is_still_taken(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=32, max_encode_tokens=100)
    add(queue, clock, 1)
    queue.schedule()
    add(queue, clock, 2, 3, tokens=500)
    clock.now += 1
    assert queue.schedule().admitted == [2]
    clock.now += 1
    assert queue.schedule().admitted == [3]


def test_idle_engine_encodes_any_number_of_tokens(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=32, max_encode_tokens=100)
    add(queue, clock, *range(8), tokens=60)
    assert len(queue.schedule().admitted) == 8


def test_one_at_a_time_where_an_encoder_run_takes_no_more(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=16, max_encoded=1)
    add(queue, clock, *range(12))
    admitted = [queue.schedule().admitted for _ in range(12)]
    assert admitted == [[each] for each in range(12)], "a full group never waits, however many rows decode"


def test_an_iteration_without_news_admits_and_drops_nothing(clock: Clock) -> None:
    queue = scheduler(clock)
    assert not queue.has_news(clock.now)
    add(queue, clock, 1, deadline=clock.now + 1)
    assert queue.has_news(clock.now), "a request waits"
    queue.schedule()
    assert not queue.has_news(clock.now)
    assert queue.has_news(clock.now + 1), "the deadline has come"
    queue.cancel(1, "client")
    assert queue.has_news(clock.now), "a request was cancelled"


def test_a_request_without_room_is_no_news(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=4, admit_wait_s=0.0)
    add(queue, clock, 1, rows=3)
    queue.schedule()
    add(queue, clock, 2, rows=2, deadline=clock.now + 5)
    add(queue, clock, 3)
    assert not queue.has_news(clock.now)
    assert queue.schedule().admitted == [], "the one behind it does not overtake it"
    assert queue.has_news(clock.now + 5), "its deadline has come"
    queue.finish(1)
    assert queue.has_news(clock.now)
    assert queue.schedule().admitted == [2, 3]


def test_wait_counts_from_the_beginning_of_an_iteration_without_news(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=32, admit_wait_s=5.0)
    add(queue, clock, *range(16))
    queue.schedule()
    clock.now += 10
    assert not queue.has_news(clock.now)  # a step begins
    clock.now += 4
    add(queue, clock, 100)
    assert queue.schedule().admitted == []
    clock.now += 1
    assert queue.schedule().admitted == [100]


def test_deadline_drops_in_the_queue_and_in_the_batch(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=2)
    add(queue, clock, 1, deadline=clock.now + 3)
    add(queue, clock, 2)
    add(queue, clock, 3, deadline=clock.now + 1)
    add(queue, clock, 4)
    assert queue.schedule().admitted == [1, 2]
    clock.now += 1
    assert queue.schedule().dropped == [(3, "deadline")]
    clock.now += 2
    output = queue.schedule()
    assert output.dropped == [(1, "deadline")]
    assert queue.num_rows == 1
    clock.now += 1
    assert queue.schedule().admitted == [4]


def test_late_request_never_starts(clock: Clock) -> None:
    queue = scheduler(clock)
    add(queue, clock, 1, deadline=clock.now - 1)
    output = queue.schedule()
    assert (output.admitted, output.dropped) == ([], [(1, "deadline")])
    assert not queue.has_work


def test_cancel_in_the_queue_and_in_the_batch(clock: Clock) -> None:
    queue = scheduler(clock, num_slots=2)
    add(queue, clock, 1, rows=2)
    add(queue, clock, 2, 3)
    queue.schedule()
    queue.cancel(1, "client")
    queue.cancel(3, "client")
    queue.cancel(3, "client")
    queue.cancel(77, "client")
    output = queue.schedule()
    assert sorted(output.dropped) == [(1, "client"), (3, "client")]
    assert queue.num_rows + len(output.admitted) <= 2
    clock.now += 1
    assert output.admitted + queue.schedule().admitted == [2]


def test_cancelled_id_may_come_again(clock: Clock) -> None:
    queue = scheduler(clock)
    queue.cancel(1, "client")
    add(queue, clock, 1)
    assert queue.schedule().admitted == [1]


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_consistent_and_order_is_kept(clock: Clock, seed: int) -> None:
    rng = random.Random(seed)
    queue, running, admitted, gone = scheduler(clock, num_slots=16), dict[int, int](), list[int](), set[int]()
    rows = {each: rng.choice([1, 1, 2, 5, 8]) for each in range(300)}
    for each in range(300):
        add(queue, clock, each, rows=rows[each], deadline=clock.now + rng.expovariate(5) if rng.random() < 0.2 else None)
        for _ in range(rng.randint(0, 3)):
            clock.now += rng.random() * 0.02
            if rng.random() < 0.1:
                queue.cancel(rng.randint(0, each), "client")
            has_news = queue.has_news(clock.now)
            output = queue.schedule()
            assert has_news or not (output.admit or output.drop)
            for request_id, _ in output.dropped:
                assert request_id not in gone
                gone.add(request_id)
                running.pop(request_id, None)
            admitted += output.admitted
            running |= {request_id: rows[request_id] for request_id in output.admitted}
            assert queue.num_rows == sum(running.values()) <= 16
            for request_id in [request_id for request_id in running if rng.random() < 0.2]:
                queue.finish(request_id)
                del running[request_id]
                gone.add(request_id)
    assert admitted == sorted(admitted)
    assert len(admitted) > 100
    assert len(set(admitted)) == len(admitted)
