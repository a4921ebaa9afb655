# SPDX-License-Identifier: Apache-2.0
"""What becomes of requests and models whose workers die or hang, and of answers that come too late; with made-up workers."""

from __future__ import annotations

import asyncio

import pytest

from attnserve_server import errors
from attnserve_server.config import EngineConfig
from attnserve_server.engine.front import workers
from attnserve_server.engine.front.watch import START_FACTOR, TICKS, Watch
from attnserve_server.engine.link.messages import Broken, Hello, Load, Loading, Unload
from attnserve_server.request import DecodeOptions, Failed, SequencePayload, Terms
from tests.fakes.front import WORKER, Bench, ready
from tests.fakes.models import make_model

NEXT, THIRD, FOURTH = "worker-0.1", "worker-0.2", "worker-0.3"


@pytest.fixture
async def bench() -> Bench:
    return await Bench(num_models=2).start()


def succeed(bench: Bench, worker: str) -> None:
    """A successor comes, and loads all models."""
    bench.pool.workers += (worker,)
    bench.pool.say(worker, Hello("cpu", "1.31.1"))
    for index in range(len(bench.models)):
        bench.ready(worker, index)


# --- Requests that kill ---


async def test_what_was_on_two_dying_workers_runs_alone_and_only_what_dies_alone_fails(bench: Bench) -> None:
    tickets = [bench.ask(), bench.ask(), bench.ask(model=1)]
    bench.lose()
    succeed(bench, NEXT)
    assert bench.submitted()[2:] == [1, 2], "all at once, the first time"
    bench.lose(NEXT)
    bench.pool.sent.clear()
    succeed(bench, THIRD)
    later = bench.ask(model=1)
    assert [work.request_id for work in bench.submits()] == [1]
    bench.finish(1)
    await asyncio.sleep(0)
    assert [work.request_id for work in bench.submits()] == [1, 2]
    bench.lose(THIRD)
    with pytest.raises(errors.WorkerLost):
        await tickets[1].result()
    bench.pool.sent.clear()
    succeed(bench, FOURTH)
    await asyncio.sleep(0)
    assert [work.request_id for work in bench.submits()] == [3], "before what has killed nothing"
    bench.say(Failed(3, "EXECUTION_FAILED", "made up"), model=1, worker=FOURTH)
    await asyncio.sleep(0)
    assert [work.request_id for work in bench.submits()] == [3, 4], "the worker is free for others again"
    bench.finish(4, model=1)
    assert (await tickets[0].result()).request_id == 1
    assert (await later.result()).request_id == 4
    bench.assert_idle()


async def test_request_that_is_given_up_frees_the_worker_that_was_kept_for_it(bench: Bench) -> None:
    suspect = bench.ask()
    bench.ask()
    bench.lose()
    succeed(bench, NEXT)
    bench.lose(NEXT)
    succeed(bench, THIRD)
    other = bench.ask(model=1)
    suspect.cancel("client")
    bench.say(Failed(1, "CANCELLED", "made up"))
    await asyncio.sleep(0)
    assert bench.submitted()[-1] == 2, "alone too"
    assert bench.submitted(model=1) == []
    bench.finish(2)
    await asyncio.sleep(0)
    assert bench.submitted(model=1) == [3]
    bench.finish(3, model=1)
    assert (await other.result()).request_id == 3
    bench.assert_idle()


async def test_request_alone_fails_with_the_second_worker(bench: Bench) -> None:
    ticket = bench.ask()
    bench.lose()
    succeed(bench, NEXT)
    bench.lose(NEXT)
    with pytest.raises(errors.WorkerLost):
        await ticket.result()
    bench.assert_idle()


async def test_death_while_loading_is_no_requests_fault(bench: Bench) -> None:
    ticket = bench.ask()
    for number, worker in enumerate((WORKER, NEXT, THIRD), 1):
        bench.pool.say(worker, Loading(bench.models[1].key))
        bench.lose(worker)
        succeed(bench, f"worker-0.{number}")
    bench.finish(1)
    assert (await ticket.result()).request_id == 1
    bench.assert_idle()


# --- Models that kill ---


def told(bench: Bench, worker: str) -> list[str]:
    """Ids of the models that a worker was told to load."""
    return [message.model.id for name, message in bench.pool.sent if name == worker and isinstance(message, Load)]


def die_loading(bench: Bench, worker: str) -> None:
    """A worker comes, loads the first model, and dies while it loads the second."""
    bench.pool.workers += (worker,)
    bench.pool.say(worker, Hello("cpu", "1.31.1"))
    bench.ready(worker, 0)
    bench.pool.say(worker, Loading(bench.models[1].key))
    bench.lose(worker)


async def test_model_whose_load_killed_two_workers_is_loaded_again_after_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SET_ASIDE_S", 0.02)
    bench.lose()
    die_loading(bench, NEXT)
    die_loading(bench, THIRD)
    assert told(bench, THIRD) == ["model-0", "model-1"]
    bench.pool.workers += (FOURTH,)
    bench.pool.say(FOURTH, Hello("cpu", "1.31.1"))
    assert told(bench, FOURTH) == ["model-0"]
    await asyncio.sleep(0.05)
    assert told(bench, FOURTH) == ["model-0", "model-1"]
    die_loading(bench, "worker-0.4")
    bench.pool.say("worker-0.5", Hello("cpu", "1.31.1"))
    assert told(bench, "worker-0.5") == ["model-0"], "one more death sets it aside again"


async def test_queued_requests_of_a_model_end_when_its_last_worker_cannot_load_it(bench: Bench) -> None:
    bench.lose()
    ticket = bench.ask()
    other = bench.ask(model=1)
    bench.pool.workers = (NEXT,)
    bench.pool.say(NEXT, Hello("cpu", "1.31.1"))
    assert not ticket.is_done, "the worker may still load it"
    bench.pool.say(NEXT, Broken(bench.models[0].key, ["no memory"], bench.models[0].generation))
    with pytest.raises(errors.ModelNotReady):
        await ticket.result()
    assert not other.is_done


async def test_load_that_succeeds_clears_a_model(bench: Bench) -> None:
    bench.lose()
    for number in (1, 3, 5):
        die_loading(bench, f"worker-0.{number}")
        succeed(bench, f"worker-0.{number + 1}")
        bench.lose(f"worker-0.{number + 1}")
    bench.pool.say("worker-0.7", Hello("cpu", "1.31.1"))
    assert told(bench, "worker-0.7") == ["model-0", "model-1"]


async def test_answers_about_an_earlier_entry_of_a_model_are_nothing(bench: Bench) -> None:
    """The worker was slow to load it, it was taken out, and added again."""
    first = make_model("late", is_ready=False)
    with pytest.raises(errors.StartupError, match="not ready after"):
        await bench.front.add_model(first, timeout_s=0.01)
    assert any(isinstance(message, Unload) and message.model == first.key for _, message in bench.pool.sent)
    second = make_model("late", is_ready=False)
    adding = asyncio.create_task(bench.front.add_model(second))
    await asyncio.sleep(0)
    bench.pool.say(WORKER, ready(first))
    bench.pool.say(WORKER, Broken(first.key, ["no memory"], first.generation))
    await asyncio.sleep(0)
    assert not second.is_ready
    assert not second.broken
    assert not adding.done()
    bench.pool.say(WORKER, ready(second))
    await adding
    bench.front.submit(second, SequencePayload([5, 3], DecodeOptions()), Terms())
    assert [work.model for work in bench.submits()] == [second.key]


# --- Draining ---


async def test_last_worker_that_dies_while_draining_ends_the_drain(bench: Bench) -> None:
    tickets = [bench.ask(), bench.ask(model=1)]
    drain = asyncio.create_task(bench.front.drain(100.0))
    await asyncio.sleep(0)
    bench.lose()
    await asyncio.wait_for(drain, 60)
    for ticket in tickets:
        with pytest.raises(errors.ShuttingDown, match="the last worker died"):
            await ticket.result()
    assert bench.pool.is_draining
    bench.assert_idle()


async def test_request_that_is_prepared_after_the_last_worker_died_while_draining_fails(bench: Bench) -> None:
    num_preparing = 1
    drain = asyncio.create_task(bench.front.drain(100.0, lambda: num_preparing > 0))
    await asyncio.sleep(0)
    bench.lose()
    ticket, num_preparing = bench.ask(), 0
    await asyncio.wait_for(drain, 60)
    with pytest.raises(errors.ShuttingDown, match="the last worker died"):
        await ticket.result()
    bench.assert_idle()


# --- Hanging workers ---


async def test_silent_worker_with_work_is_killed_and_an_idle_one_is_not() -> None:
    bench = Bench(config=EngineConfig(slots=4, hang_seconds=0.2))
    await bench.start(WORKER, "worker-1.0")
    bench.ask()
    (busy,) = [worker for worker, _ in bench.pool.sent]
    async with asyncio.timeout(20):
        while not bench.pool.killed:
            await asyncio.sleep(0.01)
    assert set(bench.pool.killed) == {busy}
    await bench.front.stop()


async def test_watch_goes_on_after_an_error(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(config=EngineConfig(slots=4, hang_seconds=0.2))
    await bench.start()
    errors_left = [OSError("made up")]

    def kill(worker: str) -> None:
        if errors_left:
            raise errors_left.pop()
        bench.pool.killed.append(worker)

    monkeypatch.setattr(bench.pool, "kill", kill)
    bench.ask()
    async with asyncio.timeout(20):
        while not bench.pool.killed:
            await asyncio.sleep(0.01)
    assert "the workers could not be watched" in caplog.text
    await bench.front.stop()


def test_watch_counts_ticks_of_silence_with_something_to_do() -> None:
    watch, names, nothing = Watch(10.0), ["a", "b"], set[str]()
    assert watch.interval_s == 1.0
    for _ in range(3 * TICKS):
        assert watch.tick(names, nothing, nothing) == []
    for _ in range(TICKS):
        assert watch.tick(names, nothing, {"a", "b"}) == [], "silence before it had work does not count"
        watch.heard("b")
    assert watch.tick(names, nothing, {"a", "b"}) == ["a"]
    watch.forget("a")
    assert watch.tick(names, nothing, {"a", "b"}) == []


def test_worker_that_reads_its_libraries_has_longer() -> None:
    watch = Watch(10.0)
    for _ in range(TICKS * START_FACTOR):
        assert watch.tick(["a"], {"a"}, set()) == []
    assert watch.tick(["a"], {"a"}, set()) == ["a"]
