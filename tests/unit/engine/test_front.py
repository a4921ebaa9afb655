# SPDX-License-Identifier: Apache-2.0
"""The front with fake workers: order, credits, refusals, deadlines, and the requests of a worker that dies."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from types import SimpleNamespace

import pytest

from attnserve_server import errors
from attnserve_server.engine.front import front as front_module
from attnserve_server.engine.front import workers
from attnserve_server.engine.link.messages import Broken, Hello, Load, Unload
from attnserve_server.errors import ConfigError, ModelNotReady, StartupError
from attnserve_server.metrics import liveness, logs
from attnserve_server.request import DecodeOptions, SequencePayload, Terms
from tests.fakes.front import WORKER, Bench, failed, produced, ready
from tests.fakes.models import make_model

BEAM = DecodeOptions(beam_size=4, num_hypotheses=4)


class Clock:
    """The front's clock, which a test moves. Timers of deadlines use the event loop's clock."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Request this fixture before the bench, whose front takes it when it starts."""
    clock = Clock()
    monkeypatch.setattr(front_module, "time", clock)
    return clock


@pytest.fixture
async def bench() -> Bench:
    return await Bench().start()


async def test_a_request_and_its_answer(bench: Bench) -> None:
    ticket = bench.ask()
    assert bench.submitted() == [1]
    bench.finish(1, [4, 5, 3])
    assert (await ticket.result()).outcome.hypotheses[0].tokens == [4, 5, 3]
    assert bench.value("generated_tokens_total") == 3
    bench.assert_idle()


async def test_stream_gets_its_events(bench: Bench) -> None:
    ticket = bench.ask(is_streamed=True)
    bench.say(produced(1, 4, i0=2))
    bench.say(produced(1, 5), produced(1, 3))
    bench.finish(1, [4, 5, 3])
    assert [event async for event in ticket.deltas()] == [produced(1, 4, 5, i0=2), produced(1, 3)]
    assert bench.value("inter_token_latency_seconds_count") == 2
    bench.assert_idle()


@pytest.mark.parametrize("ends", ["answered", "failed"])
async def test_what_is_done_leaves_nothing_to_the_garbage_collector(bench: Bench, ends: str) -> None:
    """A garbage collection after thousands of requests would delay all others."""
    gc.collect()
    gc.disable()
    try:
        tickets = [bench.ask(is_streamed=is_streamed) for is_streamed in (False, True)]
        for number in (1, 2):
            bench.finish(number) if ends == "answered" else bench.say(failed(number))
        gone = [weakref.ref(ticket) for ticket in tickets]
        del tickets
        await asyncio.sleep(0)
        assert [ticket() for ticket in gone] == [None, None]
    finally:
        gc.enable()


async def test_worker_is_sent_what_it_has_credit_for(bench: Bench) -> None:
    for _ in range(10):
        bench.ask()
    assert len(bench.submitted()) == 6, "four slots and two more"
    assert bench.value("queue_length") == 4
    bench.finish(1)
    assert bench.submitted() == [1, 2, 3, 4, 5, 6, 7]
    for number in range(2, 11):
        bench.finish(number)
    bench.assert_idle()


async def test_large_request_waits_for_room_and_is_not_passed(bench: Bench) -> None:
    for _ in range(4):
        bench.ask()
    bench.ask(options=BEAM)
    bench.ask()
    assert len(bench.submitted()) == 4
    for number in (1, 2):
        bench.finish(number)
    assert bench.submitted() == [1, 2, 3, 4, 5]


async def test_full_queue_of_one_model_does_not_affect_another() -> None:
    bench = await Bench(num_models=2).start()
    for _ in range(50):
        bench.ask(model=0, options=BEAM)
    assert bench.value("queue_length", model="model-0") == 49
    ticket = bench.ask(model=1)
    assert bench.submitted(model=1) == [51]
    bench.finish(51, model=1)
    assert (await ticket.result()).request_id == 51
    assert bench.value("queue_length", model="model-1") == 0


async def test_work_goes_to_the_worker_with_least_work() -> None:
    bench = await Bench().start("worker-0.0", "worker-1.0")
    for _ in range(6):
        bench.ask()
    assert sorted(worker for worker, _ in bench.pool.sent) == ["worker-0.0"] * 3 + ["worker-1.0"] * 3


async def test_priority_and_clients_order_the_queue(bench: Bench) -> None:
    for _ in range(6):
        bench.ask(client="noisy")
    for _ in range(20):
        bench.ask(client="noisy")
    quiet, urgent = bench.ask(client="quiet").job, bench.ask(client="noisy", priority=2).job
    assert quiet is not None
    assert urgent is not None
    for number in (1, 2, 3):
        bench.finish(number)
    assert bench.submitted()[-3:] == [urgent.id, quiet.id, 7]


async def test_full_queue_refuses_at_once() -> None:
    bench = await Bench(limit=10).start()
    for _ in range(6 + 8):
        bench.ask(client="noisy")
    with pytest.raises(errors.Overloaded, match="8 requests are waiting, 8 of them") as raised:
        bench.ask(client="noisy")
    assert raised.value.retry_after_s is not None
    assert 0 < raised.value.retry_after_s <= 10
    bench.ask(client="another")
    bench.ask(client="third")
    with pytest.raises(errors.Overloaded):
        bench.ask(client="fourth")
    assert bench.value("requests_rejected_total", reason="overloaded") == 2
    for number in range(1, 18):
        bench.finish(number)
    bench.assert_idle()


async def test_retry_is_when_there_will_be_room(clock: Clock) -> None:
    bench = await Bench(limit=500).start()
    for _ in range(406):
        bench.ask(client="noisy")
    for number in range(1, 40):
        clock.now += 0.005
        bench.finish(number)
    for _ in range(39):
        bench.ask(client="noisy")
    with pytest.raises(errors.Overloaded) as raised:
        bench.ask(client="noisy")
    assert raised.value.retry_after_s is not None
    assert raised.value.retry_after_s == pytest.approx(0.5, rel=0.02), "a quarter of 400, at 200 a second"


async def test_other_refusals(bench: Bench) -> None:
    with pytest.raises(errors.SequenceTooLong):
        bench.ask([1] * 60)
    bench.models[0].ready_workers.clear()
    with pytest.raises(errors.ModelNotReady):
        bench.ask()
    await bench.front.drain(0)
    with pytest.raises(errors.ShuttingDown):
        bench.ask()
    assert bench.value("requests_rejected_total") == 3
    bench.assert_idle()


# --- Cancellation and deadlines ---


@pytest.mark.parametrize("where", ["queue", "worker"])
async def test_client_that_leaves(bench: Bench, where: str) -> None:
    tickets = [bench.ask(options=BEAM) for _ in range(2)]
    ticket = tickets[where == "queue"]
    ticket.cancel("client")
    with pytest.raises(errors.Cancelled):
        await ticket.result()
    if where == "queue":
        assert bench.cancels() == []
        assert bench.value("requests_cancelled_total", reason="client") == 1
        assert bench.value("queue_length") == 0
        bench.finish(1)
    else:
        assert bench.cancels() == [(1, "client")]
        assert bench.submitted() == [1], "its rows are not free before the worker says so"
        bench.say(failed(1, "CANCELLED"), client=1)
        assert bench.value("requests_cancelled_total", reason="client") == 1
        assert bench.submitted() == [1, 2]
        bench.finish(2)
    bench.assert_idle()


@pytest.mark.parametrize("where", ["queue", "worker"])
async def test_deadline_that_passes(clock: Clock, bench: Bench, where: str) -> None:
    deadline = clock.now + 0.03
    if where == "queue":
        bench.ask(options=BEAM)
    ticket = bench.ask(options=BEAM, deadline=deadline)
    with pytest.raises(errors.DeadlineExceeded):
        await ticket.result()
    if where == "queue":
        assert bench.value("requests_cancelled_total", reason="deadline") == 1
        bench.finish(1)
    else:
        assert bench.cancels() == [(1, "deadline")]
        bench.say(failed(1, "DEADLINE_EXCEEDED"), deadline=1)
        assert bench.value("requests_cancelled_total", reason="deadline") == 1
    bench.assert_idle()


async def test_worker_keeps_the_deadline_too(bench: Bench) -> None:
    deadline = time.monotonic() + 60
    bench.ask(deadline=deadline)
    assert bench.submits()[0].terms.deadline == deadline


async def test_drain_answers_what_was_admitted(bench: Bench) -> None:
    tickets = [bench.ask(options=BEAM) for _ in range(3)]
    drain = asyncio.create_task(bench.front.drain(60.0))
    await asyncio.sleep(0)
    with pytest.raises(errors.ShuttingDown):
        bench.ask()
    for number in (1, 2, 3):
        bench.finish(number)
    await drain
    assert [(await ticket.result()).request_id for ticket in tickets] == [1, 2, 3]


async def test_drain_waits_for_requests_that_are_still_prepared(bench: Bench) -> None:
    num_preparing = 2
    drain = asyncio.create_task(bench.front.drain(60.0, lambda: num_preparing > 0))
    await asyncio.sleep(0.02)
    assert (bench.front.draining.has_begun, drain.done()) == (True, False)
    with pytest.raises(errors.ShuttingDown):
        bench.front.draining.check(is_prepared=False)  # for a request that would have to be prepared
    ticket, num_preparing = bench.ask(), 1
    bench.finish(1)
    assert (await ticket.result()).request_id == 1
    await asyncio.sleep(0.02)
    assert not drain.done()
    num_preparing = 0
    await asyncio.wait_for(drain, 30)
    with pytest.raises(errors.ShuttingDown):
        bench.ask()
    bench.assert_idle()


async def test_request_that_is_prepared_too_late_for_a_drain_is_refused(bench: Bench) -> None:
    await bench.front.drain(0.01, lambda: True)
    with pytest.raises(errors.ShuttingDown):
        bench.ask()
    bench.assert_idle()


async def test_drain_that_takes_too_long(bench: Bench) -> None:
    tickets = [bench.ask(options=BEAM) for _ in range(3)]
    await bench.front.drain(0.01)
    for ticket in tickets:
        with pytest.raises(errors.ShuttingDown):
            await ticket.result()
    assert bench.value("requests_cancelled_total", reason="shutdown") == 3
    bench.assert_idle()


# --- Deadlines that cannot be met ---


def busy(clock: Clock, bench: Bench, num_waiting: int, service_s: float = 0.06, num_answers: int = 20) -> int:
    """A backlog that is served at a steady rate, one row at a time; returns the number of the last request."""
    for _ in range(6 + num_answers + num_waiting):
        bench.ask(client="noisy")
    for number in range(1, num_answers + 1):
        clock.now += 0.01
        bench.finish(number, service_s=service_s)
    return 6 + num_answers + num_waiting


async def test_unreachable_deadline_is_refused_at_once(clock: Clock, bench: Bench) -> None:
    busy(clock, bench, num_waiting=50)
    with pytest.raises(errors.DeadlineUnreachable, match="an answer takes"):
        bench.ask(client="noisy", deadline=clock.now + 0.1)
    assert bench.value("requests_rejected_total", reason="deadline_unreachable") == 1
    bench.ask(client="noisy", deadline=clock.now + 30)
    bench.ask(client="noisy")
    bench.ask(client="noisy", priority=2, deadline=clock.now + 0.5)
    bench.ask(client="quiet", deadline=clock.now + 0.5)


async def test_time_of_service_counts_too(clock: Clock, bench: Bench) -> None:
    busy(clock, bench, num_waiting=5)
    with pytest.raises(errors.DeadlineUnreachable):
        bench.ask(client="quiet", deadline=clock.now + 0.03)
    bench.ask(client="quiet", options=DecodeOptions(max_tokens=1), deadline=clock.now + 0.03)


async def test_queue_seconds_count_from_the_oldest_waiting_request(clock: Clock, bench: Bench) -> None:
    now = clock.now
    clock.now = now - 100  # the gauge reads the real clock
    tickets = [bench.ask() for _ in range(7)]  # the worker takes six
    clock.now = now - 50
    bench.ask()
    assert bench.value("queue_length") == 2
    assert 100 <= bench.value("queue_seconds") <= 120
    tickets[6].cancel("client")
    assert 50 <= bench.value("queue_seconds") <= 70
    bench.lose()
    assert bench.value("queue_length") == 7
    assert 100 <= bench.value("queue_seconds") <= 120, "the requests of a dead worker wait again"


async def test_silence_of_a_worker_counts_from_when_it_was_given_work(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.monotonic() + 100]
    monkeypatch.setattr(liveness, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert bench.value("worker_silence_seconds") == 0
    bench.ask()
    assert bench.value("worker_silence_seconds") == 0, "it was idle before"
    now[0] += 5
    bench.ask()
    assert bench.value("worker_silence_seconds") == 5, "more work does not end a silence"
    bench.finish(1)
    assert bench.value("worker_silence_seconds") == 0
    now[0] += 2
    assert bench.value("worker_silence_seconds") == 2, "it has the second request"
    bench.finish(2)
    assert bench.value("worker_silence_seconds") == 0


async def test_without_evidence_nothing_is_refused(bench: Bench) -> None:
    bench.ask(deadline=time.monotonic() + 0.001)
    for _ in range(50):
        bench.ask(client="noisy")
    bench.ask(client="noisy", deadline=time.monotonic() + 0.01)
    assert bench.value("requests_rejected_total") == 0


async def test_idle_server_refuses_nothing(clock: Clock, bench: Bench) -> None:
    last = busy(clock, bench, num_waiting=10)
    for number in range(21, last + 1):
        bench.finish(number, service_s=100.0)
    bench.assert_idle()
    bench.ask(deadline=clock.now + 0.5)
    assert bench.value("requests_rejected_total") == 0
    assert bench.submitted()[-1] == last + 1, "it is even tried"


async def test_wrong_estimate_does_not_refuse_for_ever(clock: Clock, bench: Bench) -> None:
    last = busy(clock, bench, num_waiting=50)
    with pytest.raises(errors.DeadlineUnreachable):
        bench.ask(client="noisy", deadline=clock.now + 0.02)
    for number in range(21, last + 1):
        bench.finish(number)
    bench.ask(client="noisy", deadline=clock.now + 0.02)


async def test_too_late_for_a_worker_is_expired_and_not_sent(clock: Clock, bench: Bench) -> None:
    last = busy(clock, bench, num_waiting=1, service_s=0.3)
    late = bench.ask(client="noisy", deadline=clock.now + 0.4)
    patient = bench.ask(client="noisy")
    sent = len(bench.submitted())
    clock.now += 0.12
    bench.finish(21, service_s=0.3)
    assert late.is_done
    with pytest.raises(errors.DeadlineExceeded):
        await late.result()
    bench.finish(22)
    assert patient.job is not None
    assert bench.submitted()[sent:] == [last, patient.job.id]
    assert bench.value("requests_cancelled_total", reason="deadline") == 1
    assert bench.value("requests_rejected_total") == 0


# --- Workers that die ---


async def test_lost_worker_and_its_requests(bench: Bench) -> None:
    streamed, unary, queued = bench.ask(is_streamed=True), bench.ask(), [bench.ask(options=BEAM) for _ in range(3)]
    bench.say(produced(1, 4))
    left = bench.ask()
    assert left.job is not None
    bench.lose()
    with pytest.raises(errors.WorkerLost):
        await streamed.result()
    assert not unary.is_done
    assert bench.value("queue_length") == 5
    bench.pool.sent.clear()
    bench.ready("worker-0.1")
    assert bench.submitted() == [2, 3], "those that it held come first"
    bench.finish(2)
    bench.lose("worker-0.1")
    with pytest.raises(errors.WorkerLost):
        await queued[0].result()
    bench.ready("worker-0.2")
    for number in (4, 5, 6):
        bench.finish(number)
    assert [(await ticket.result()).request_id for ticket in (unary, *queued[1:], left)] == [2, 4, 5, 6]
    bench.assert_idle()


async def test_lost_worker_of_a_cancelled_request(bench: Bench) -> None:
    ticket = bench.ask()
    ticket.cancel("client")
    bench.lose()
    bench.assert_idle()


async def test_messages_about_unknown_requests_are_ignored(bench: Bench) -> None:
    bench.finish(77)
    bench.say(failed(78))
    bench.say(produced(79, 1), worker=WORKER)
    bench.assert_idle()


# --- Models that cannot be loaded ---


async def test_model_that_no_worker_can_load_is_no_longer_served(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(num_models=2)
    bench.pool.broken[WORKER, bench.models[0].key] = ["no graph", "no weights"]
    await bench.start()
    assert [model.id for model in bench.front.models()] == ["model-1"]
    assert "cannot load model-0, version 1: no graph; no weights" in caplog.text
    assert bench.value("model_ready") == 1
    assert bench.value("slots", model="model-0") == 0
    bench.ask(model=1)
    bench.finish(1, model=1)
    bench.assert_idle()


async def test_model_that_one_worker_can_load_is_served_by_it() -> None:
    bench = Bench()
    bench.pool.broken["worker-1.0", bench.models[0].key] = ["no memory"]
    await bench.start("worker-0.0", "worker-1.0")
    for _ in range(3):
        bench.ask()
    assert {worker for worker, _ in bench.pool.sent} == {"worker-0.0"}


async def test_without_any_model_the_start_fails_with_all_that_is_wrong() -> None:
    bench = Bench(num_models=2)
    for index, model in enumerate(bench.models):
        bench.pool.broken[WORKER, model.key] = [f"fault {index}", "no weights"]
    with pytest.raises(errors.StartupError, match="fault 0; no weights; nowhere: fault 1; no weights"):
        await bench.start()


async def test_worker_is_told_the_id_of_the_request(bench: Bench) -> None:
    token = logs.request_id.set("id-7")
    try:
        bench.ask()
    finally:
        logs.request_id.reset(token)
    assert bench.submits()[0].log_id == "id-7"


async def test_removed_model_leaves_nothing_behind() -> None:
    bench = await Bench(num_models=2).start()
    tickets = [bench.ask() for _ in range(8)]
    other = bench.ask(model=1)
    removal = asyncio.create_task(bench.front.remove_model(bench.models[0].key))
    await asyncio.sleep(0)
    for ticket in tickets[6:]:
        with pytest.raises(errors.ModelNotReady, match="model-0 is no longer served"):
            await ticket.result()
    bench.finish(1)
    bench.lose()
    await removal
    assert [ticket.is_done for ticket in tickets] == [True] * 8
    assert (await tickets[0].result()).outcome.hypotheses
    with pytest.raises(errors.ModelNotReady):
        await tickets[1].result()
    assert not other.is_done
    with pytest.raises(errors.ModelNotFound):
        await bench.front.remove_model(bench.models[0].key)
    bench.say(model=0)
    assert bench.value("slots", model="model-0") == bench.value("queue_length", model="model-0") == 0
    bench.ready("worker-0.1", model=1)
    bench.finish(other.job.id if other.job else 0, model=1)
    assert (await other.result()).outcome.hypotheses
    bench.assert_idle()


async def test_removal_does_not_wait_for_ever() -> None:
    bench = await Bench().start()
    ticket = bench.ask()
    await bench.front.remove_model(bench.models[0].key, timeout_s=0.02)
    with pytest.raises(errors.ModelNotReady):
        await ticket.result()
    assert any(isinstance(message, Unload) for _, message in bench.pool.sent)
    bench.finish(1)
    assert bench.front.models() == []


async def test_model_that_loads_too_slowly_is_closed_with_its_requests() -> None:
    bench = await Bench().start("w0", "w1")
    late = make_model("late", is_ready=False, max_source_tokens=50)
    adding = asyncio.create_task(bench.front.add_model(late, timeout_s=0.05))
    await asyncio.sleep(0)
    bench.pool.say("w0", ready(late))
    tickets = [bench.front.submit(late, SequencePayload([5, 3], DecodeOptions()), Terms()) for _ in range(8)]
    with pytest.raises(StartupError, match="not ready after"):
        await adding
    for ticket in tickets:
        with pytest.raises(ModelNotReady, match="late is no longer served"):
            await ticket.result()
    with pytest.raises(ModelNotReady, match="late is not ready"):
        bench.front.submit(late, SequencePayload([5, 3], DecodeOptions()), Terms())
    assert bench.front.accounting.is_idle
    await bench.front.drain(0)


async def test_model_that_is_still_being_removed_is_not_added_again() -> None:
    bench = await Bench().start()
    ticket = bench.ask()
    removal = asyncio.create_task(bench.front.remove_model(bench.models[0].key))
    await asyncio.sleep(0)
    with pytest.raises(ConfigError, match="still being removed"):
        await bench.front.add_model(make_model("model-0", is_ready=False))
    bench.finish(1)
    await removal
    assert (await ticket.result()).outcome.hypotheses


async def test_worker_that_cannot_load_a_model_again_is_asked_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "RELOAD_S", 0.0)
    bench = await Bench().start()
    key = bench.models[0].key
    bench.lose()
    bench.pool.say("worker-0.1", Hello("cpu", "1.31.1"))
    bench.pool.say("worker-0.1", Broken(key, ["no memory"], bench.models[0].generation))
    loads = [message for _, message in bench.pool.sent if isinstance(message, Load)]
    await asyncio.sleep(0.01)
    again = [message for _, message in bench.pool.sent if isinstance(message, Load)]
    assert len(again) == len(loads) + 1
    bench.pool.say("worker-0.1", ready(bench.models[0]))
    assert bench.models[0].is_ready


async def test_model_that_never_was_ready_is_not_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "RELOAD_S", 0.0)
    bench = Bench(num_models=2)
    bench.pool.broken[WORKER, bench.models[1].key] = ["no such operator"]
    await bench.start()
    await asyncio.sleep(0.01)
    assert not [message for _, message in bench.pool.sent if isinstance(message, Load)]
