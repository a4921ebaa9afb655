# SPDX-License-Identifier: Apache-2.0
"""Estimates of wait and service: correct with recent answers, zero without, and wrong only for a short time."""

from __future__ import annotations

import pytest

from attnserve_server.scheduling.estimator import MIN_ANSWERS, WINDOW_S, ServiceEstimator
from tests.fakes.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def estimator(clock: Clock) -> ServiceEstimator:
    return ServiceEstimator(clock)


def answer(estimator: ServiceEstimator, clock: Clock, num: int, every_s: float, cost: float = 1.0, num_steps: int = 20) -> None:
    """``num`` answers, one every ``every_s`` seconds; each of their steps took 10 ms."""
    for _ in range(num):
        clock.now += every_s
        estimator.answered(cost, 0.01 * num_steps, num_steps)


def test_backlog_is_waited_for_at_the_rate_of_answers(estimator: ServiceEstimator, clock: Clock) -> None:
    estimator.set_waiting(100)
    answer(estimator, clock, 50, 0.1, cost=4.0)
    assert estimator.wait_s(400.0) == pytest.approx(10.0, rel=0.05)
    assert estimator.wait_s(0.0) == 0.0


def test_rate_follows_what_changes(estimator: ServiceEstimator, clock: Clock) -> None:
    estimator.set_waiting(100)
    answer(estimator, clock, 100, 0.1)
    answer(estimator, clock, 300, 0.01)
    assert estimator.wait_s(100.0) == pytest.approx(1.0, rel=0.1)


def test_service_is_the_fastest_step_times_the_fewest_steps(estimator: ServiceEstimator, clock: Clock) -> None:
    estimator.set_waiting(1)
    answer(estimator, clock, 20, 0.1, num_steps=40)
    answer(estimator, clock, 1, 0.1, num_steps=30)
    assert estimator.service_s(128) == pytest.approx(0.3)
    assert estimator.service_s(2) == pytest.approx(0.02), "a request for two tokens waits for two steps"


def test_no_evidence_is_no_estimate(estimator: ServiceEstimator, clock: Clock) -> None:
    assert estimator.wait_s(1e9) == estimator.service_s(128) == 0.0
    answer(estimator, clock, 100, 0.1)
    assert estimator.wait_s(1e9) == estimator.service_s(128) == 0.0, "no request waited, so the rate was that of the requests"
    estimator.set_waiting(5)
    answer(estimator, clock, MIN_ANSWERS - 1, 0.1)
    assert estimator.wait_s(1e9) == estimator.service_s(128) == 0.0
    answer(estimator, clock, 1, 0.1)
    assert estimator.wait_s(1.0) > 0
    assert estimator.service_s(128) > 0


def test_first_answers_of_a_backlog_do_not_look_slow(estimator: ServiceEstimator, clock: Clock) -> None:
    """32 requests that began together take a second and then end together: 32 a second, not 8 in the first of them."""
    estimator.set_waiting(100)
    clock.now += 1.0
    answer(estimator, clock, MIN_ANSWERS, 0.0005)
    assert estimator.wait_s(32.0) < 1.0


def test_empty_queue_ends_every_estimate(estimator: ServiceEstimator, clock: Clock) -> None:
    estimator.set_waiting(9)
    answer(estimator, clock, 20, 10 * 0.05)
    assert estimator.wait_s(100) > 1
    estimator.set_waiting(0)
    assert estimator.wait_s(100) == estimator.service_s(128) == 0.0
    estimator.set_waiting(9)
    assert estimator.wait_s(100) == estimator.service_s(128) == 0.0


def test_evidence_expires(estimator: ServiceEstimator, clock: Clock) -> None:
    """A request waits and no answers come: after some time the estimate drops to zero."""
    estimator.set_waiting(9)
    answer(estimator, clock, 20, 0.5)
    assert estimator.wait_s(100) > 10
    clock.now += WINDOW_S
    assert estimator.wait_s(100) == estimator.service_s(128) == 0.0


def test_answers_at_the_same_moment(estimator: ServiceEstimator, clock: Clock) -> None:
    estimator.set_waiting(9)
    answer(estimator, clock, 20, 0.0)
    assert estimator.wait_s(100) == 0.0
    answer(estimator, clock, 1, 0.0, num_steps=0)
