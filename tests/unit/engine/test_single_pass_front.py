# SPDX-License-Identifier: Apache-2.0
"""The front and single-pass models: what a worker is sent, which request is first, and what a model says of itself."""

from __future__ import annotations

import time

import pytest

from attnserve_server.config import BatchConfig, EngineConfig
from attnserve_server.engine.front.job import Ticket
from attnserve_server.engine.front.served_models import ServedModel
from attnserve_server.passes import PassOutcome
from attnserve_server.request import Done, Terms
from tests.fakes.front import WORKER, Bench
from tests.fakes.passes import pass_model, payload

MODEL = "model-0"


def ask(bench: Bench, seed: int = 0, **terms: int | str) -> Ticket:
    return bench.front.submit(bench.models[0], payload(seed), Terms(**terms))  # type: ignore[arg-type]


def answer(bench: Bench, number: int) -> None:
    now = time.monotonic()
    bench.say(Done(number, PassOutcome({}, 1), now - 0.1, 0.1, now, now, 1))  # type: ignore[arg-type]


async def made(max_batch: int = 4, asked: int = 0) -> Bench:
    config = EngineConfig(slots=32, batches={MODEL: BatchConfig(max_batch=asked)})
    return await Bench(config=config, models=[pass_model(max_batch, MODEL)]).start(WORKER)


@pytest.mark.parametrize(("max_batch", "asked", "credit"), [(4, 0, 8), (1, 0, 2), (4, 1, 2), (1, 3, 6)])
async def test_worker_is_sent_two_of_the_largest_batches_whatever_the_slots(max_batch: int, asked: int, credit: int) -> None:
    bench = await made(max_batch, asked)
    for seed in range(10):
        ask(bench, seed)
    assert len(bench.submitted()) == credit
    assert bench.value("queue_length") == 10 - credit
    answer(bench, bench.submitted()[0])
    assert len(bench.submitted()) == credit + 1


async def test_what_waits_is_ordered_by_priority_and_client() -> None:
    bench = await made(asked=1)
    for seed in range(4):
        ask(bench, seed, client="first")
    ask(bench, 4, client="second")
    ask(bench, 5, client="first", priority=2)
    for number in (1, 2):
        answer(bench, number)
    assert bench.submitted()[:2] == [1, 2]
    assert set(bench.submitted()[2:]) == {5, 6}, "the other client's and the urgent one come before the first client's third"


async def test_metrics_are_those_of_batches() -> None:
    bench = await made()
    ticket = ask(bench)
    answer(bench, 1)
    assert (await ticket.result()).outcome == PassOutcome({}, 1)
    names = {family.name for family in bench.registry.collect() for each in family.samples if each.labels.get("model") == MODEL}
    assert "attnserve_batch_size" in names
    assert not names & {"attnserve_slots", "attnserve_decode_duration_seconds", "attnserve_generated_tokens"}
    assert bench.value("queue_duration_seconds_count") == 1


def test_attention_is_given_by_a_graph_of_the_variant() -> None:
    model: ServedModel = pass_model()
    assert model.gives_attention
    del model.bundle.variant.passes[1]
    assert not model.gives_attention
    model.check(payload(0))
