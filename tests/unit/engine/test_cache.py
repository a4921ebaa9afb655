# SPDX-License-Identifier: Apache-2.0
"""The cache of answers, and equal requests that share work in progress."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from attnserve_server import errors
from attnserve_server.engine.front import front as front_module
from attnserve_server.engine.front.sharing import ENTRY_BYTES, ResponseCache
from attnserve_server.request import (
    AttentionDetail,
    AttentionWeights,
    DecodeOptions,
    FinishReason,
    Hypothesis,
    Sampling,
    SequenceOutcome,
)
from tests.fakes.front import Bench, failed, produced

MIB = 1 << 20


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time at which the front's clock stands still: no deadline passes before its request is taken. Request it before the bench."""
    now = time.monotonic()
    monkeypatch.setattr(front_module, "time", SimpleNamespace(monotonic=lambda: now))
    return now


@pytest.fixture
async def bench() -> Bench:
    return await Bench(cache_bytes=MIB).start()


def counts(bench: Bench) -> tuple[float, float, float]:
    """Hits, misses and coalesced requests."""
    hits, misses, coalesced = (bench.value("cache_requests_total", result=each) for each in ("hit", "miss", "coalesced"))
    return hits, misses, coalesced


# --- The store ---


def hypotheses(num_tokens: int = 3, num_weights: int = 0) -> SequenceOutcome:
    weights = AttentionWeights((num_weights, 1), bytes(4 * num_weights)) if num_weights else None
    return SequenceOutcome([Hypothesis(list(range(num_tokens)), -0.123456789, FinishReason.STOP, weights, {1: 2})])


def test_cached_answer_is_returned_unchanged() -> None:
    cache = ResponseCache(MIB)
    kept = hypotheses(40, 100)
    cache.put(b"key", kept)
    assert cache.get(b"key") == kept
    found = cache.get(b"key")
    assert found is not None
    found.hypotheses[0].tokens.append(7)
    assert cache.get(b"key") == kept, "a change of a returned answer does not change the cached one"
    assert cache.get(b"other") is None


def test_least_recently_used_goes_first() -> None:
    cache = ResponseCache(10_000)
    for number in range(100):
        cache.put(b"%d" % number, hypotheses())
        cache.get(b"0")
    assert cache.num_bytes <= 10_000
    assert len(cache) < 100
    assert cache.get(b"0") is not None
    assert cache.get(b"1") is None
    assert cache.get(b"99") is not None


def test_attention_counts() -> None:
    cache = ResponseCache(MIB)
    cache.put(b"a", hypotheses())
    small = cache.num_bytes
    assert small > ENTRY_BYTES
    cache.put(b"b", hypotheses(3, 1000))
    assert cache.num_bytes - small > 4000
    cache.put(b"b", hypotheses())
    assert cache.num_bytes == 2 * small


def test_large_answers_are_not_kept() -> None:
    cache = ResponseCache(80_000)
    cache.put(b"a", hypotheses(3, 2400))
    assert len(cache) == 1
    cache.put(b"b", hypotheses(3, 2500))
    assert cache.get(b"b") is None
    assert cache.num_bytes < 10_000


def test_nothing_is_kept_where_there_is_no_cache() -> None:
    cache = ResponseCache(0)
    cache.put(b"a", hypotheses())
    assert (len(cache), cache.get(b"a")) == (0, None)


# --- Hits ---


async def test_hit_is_answered_at_once(bench: Bench) -> None:
    first = bench.ask()
    bench.finish(1, [4, 5, 3])
    again = bench.ask(client="another", priority=2, deadline=time.monotonic() + 60)
    answer = await again.result()
    assert answer.outcome.hypotheses == (await first.result()).outcome.hypotheses
    assert bench.submitted() == [1]
    assert counts(bench) == (1, 1, 0)
    assert again.received_at <= answer.admitted_at == answer.first_token_at == answer.finished_at <= time.monotonic()
    assert answer.encode_s == 0
    assert bench.value("generated_tokens_total") == 3, "what was generated, not what was answered"
    assert (bench.value("cache_entries"), bench.value("cache_bytes") > 0) == (1, True)
    bench.assert_idle()


async def test_hit_of_a_stream_is_one_event(bench: Bench) -> None:
    bench.ask()
    bench.finish(1, [4, 5, 3], copied_from={1: 2})
    ticket = bench.ask(is_streamed=True)
    assert [(event.tokens, event.copied_from) async for event in ticket.deltas()] == [([4, 5, 3], {1: 2})]
    assert (await ticket.result()).outcome.hypotheses[0].tokens == [4, 5, 3]


@pytest.mark.parametrize(
    "options",
    [
        DecodeOptions(beam_size=2),
        DecodeOptions(length_penalty=0.9),
        DecodeOptions(max_tokens=5),
        DecodeOptions(attention=AttentionDetail.MEAN),
        DecodeOptions(prefix=(4,)),
        DecodeOptions(sampling=Sampling(1)),
        DecodeOptions(sampling=Sampling(2)),
    ],
)
async def test_other_options_are_another_request(bench: Bench, options: DecodeOptions) -> None:
    bench.ask()
    bench.finish(1)
    bench.ask(options=options)
    assert bench.submitted() == [1, 2]


async def test_other_tokens_and_models_are_other_requests() -> None:
    bench = await Bench(num_models=2, cache_bytes=MIB).start()
    bench.ask([5, 6, 3])
    bench.finish(1)
    bench.ask([5, 7, 3])
    bench.ask([5, 6, 3], model=1)
    assert (bench.submitted(0), bench.submitted(1)) == ([1, 2], [3])


async def test_model_that_comes_again_under_its_key_is_another(bench: Bench) -> None:
    bench.ask()
    bench.finish(1)
    assert bench.ask().is_done
    bench.models[0].generation += 1
    assert not bench.ask().is_done
    assert bench.submitted() == [1, 2]


async def test_seeded_samples_are_kept(bench: Bench) -> None:
    options = DecodeOptions(sampling=Sampling(7, temperature=0.5))
    bench.ask(options=options)
    bench.finish(1)
    assert bench.ask(options=options).is_done


async def test_hit_needs_no_place_in_the_queue_but_is_refused_in_a_drain() -> None:
    bench = await Bench(limit=1, cache_bytes=MIB).start()
    bench.ask()
    bench.finish(1)
    for number in range(7):
        bench.ask([number, 3])
    with pytest.raises(errors.Overloaded):
        bench.ask([99, 3])
    assert bench.ask().is_done
    bench.models[0].ready_workers.clear()
    assert bench.ask().is_done
    with pytest.raises(errors.SequenceTooLong):
        bench.ask([1] * 60)
    drain = asyncio.create_task(bench.front.drain(0.01))
    await asyncio.sleep(0)
    with pytest.raises(errors.ShuttingDown):
        bench.ask()
    await drain


async def test_failures_are_not_kept(bench: Bench) -> None:
    ticket = bench.ask()
    bench.say(failed(1))
    with pytest.raises(errors.ExecutionFailed):
        await ticket.result()
    bench.ask()
    assert bench.submitted() == [1, 2]
    assert bench.value("cache_entries") == 0


async def test_without_a_cache_nothing_is_shared() -> None:
    bench = await Bench().start()
    bench.ask()
    bench.ask()
    assert bench.submitted() == [1, 2]
    bench.finish(1)
    bench.ask()
    assert bench.submitted() == [1, 2, 3]
    assert bench.value("cache_requests_total") == 0


# --- Work in progress ---


async def test_equal_requests_share_their_work(bench: Bench) -> None:
    leader = bench.ask()
    await asyncio.sleep(0.02)
    followers = [bench.ask(client=str(number)) for number in range(5)]
    assert bench.submitted() == [1]
    assert counts(bench) == (0, 1, 5)
    bench.finish(1, [4, 3], service_s=0.01)
    expected = (await leader.result()).outcome.hypotheses
    for ticket in followers:
        answer = await ticket.result()
        assert answer.outcome.hypotheses == expected
        times = ticket.received_at, answer.admitted_at, answer.admitted_at + answer.encode_s, answer.finished_at
        assert list(times) == sorted(times), "no interval is negative, none begins before the request"
    assert bench.value("queue_duration_seconds_count") == 1
    bench.assert_idle()


async def test_follower_that_came_late_has_sane_times(bench: Bench) -> None:
    bench.ask()
    late = bench.ask()
    bench.finish(1, service_s=60.0)  # it began before the late one came, however long this test takes
    answer = await late.result()
    assert answer.admitted_at == late.received_at
    assert answer.encode_s == 0
    assert answer.first_token_at <= answer.finished_at


@pytest.mark.parametrize("leaver", ["leader", "follower"])
async def test_ticket_that_leaves_ends_only_itself(bench: Bench, leaver: str) -> None:
    tickets = [bench.ask(), bench.ask(), bench.ask()]
    leaving = tickets.pop(0 if leaver == "leader" else 1)
    leaving.cancel("client")
    with pytest.raises(errors.Cancelled):
        await leaving.result()
    assert bench.cancels() == []
    assert bench.value("requests_cancelled_total", reason="client") == 1
    bench.finish(1, [4, 3])
    assert [(await ticket.result()).outcome.hypotheses[0].tokens for ticket in tickets] == [[4, 3], [4, 3]]
    bench.assert_idle()


async def test_work_is_cancelled_when_no_ticket_is_left(bench: Bench) -> None:
    tickets = [bench.ask(), bench.ask()]
    tickets[0].cancel("client")
    assert bench.cancels() == []
    tickets[1].cancel("client")
    assert bench.cancels() == [(1, "client")]
    bench.ask()
    assert bench.submitted() == [1, 2], "no request joins a cancelled job"
    bench.say(failed(1, "CANCELLED"), client=1)
    assert bench.value("requests_cancelled_total", reason="client") == 2
    bench.finish(2)
    bench.assert_idle()


async def test_deadlines_end_only_their_own(now: float, bench: Bench) -> None:
    soon, later, never = bench.ask(deadline=now + 0.02), bench.ask(deadline=now + 0.04), bench.ask()
    assert bench.submits()[0].terms.deadline is None, "the front watches the deadlines, because a later ticket may have more time"
    for ticket in (soon, later):
        with pytest.raises(errors.DeadlineExceeded):
            await ticket.result()
    assert bench.cancels() == []
    assert bench.value("requests_cancelled_total", reason="deadline") == 2
    bench.finish(1)
    assert (await never.result()).request_id == 1


async def test_last_deadline_ends_the_work(now: float, bench: Bench) -> None:
    tickets = [bench.ask(deadline=now + 0.04), bench.ask(deadline=now + 0.02)]
    assert tickets[0].job is not None
    assert tickets[0].job.deadline == now + 0.04
    for ticket in tickets:
        with pytest.raises(errors.DeadlineExceeded):
            await ticket.result()
    assert bench.cancels() == [(1, "deadline")]


@pytest.mark.parametrize("streamed", [False, True])
async def test_failure_reaches_all_tickets(bench: Bench, streamed: bool) -> None:
    tickets = [bench.ask(is_streamed=streamed), bench.ask()]
    if streamed:
        bench.say(produced(1, 4))
        bench.lose()
    else:
        bench.say(failed(1))
    kind = errors.WorkerLost if streamed else errors.ExecutionFailed
    for ticket in tickets:
        with pytest.raises(kind):
            await ticket.result()
    bench.assert_idle()


async def test_stream_joins_a_stream(bench: Bench) -> None:
    leader = bench.ask(is_streamed=True)
    bench.say(produced(1, 4, i0=1))
    bench.say(produced(1, 5))
    follower, unary = bench.ask(is_streamed=True), bench.ask()
    events = follower.deltas()
    assert await anext(events) == produced(1, 4, 5, i0=1), "at once, what was delivered"
    bench.say(produced(1, 3))
    assert await anext(events) == produced(1, 3)
    bench.finish(1, [4, 5, 3])
    assert [event async for event in events] == []
    assert [token async for event in leader.deltas() for token in event.tokens] == [4, 5, 3]
    assert (await unary.result()).outcome.hypotheses == (await follower.result()).outcome.hypotheses
    assert counts(bench) == (0, 1, 2)


async def test_stream_does_not_join_what_is_not_one(bench: Bench) -> None:
    bench.ask()
    streamed = bench.ask(is_streamed=True)
    assert bench.submitted() == [1, 2]
    another = bench.ask(is_streamed=True)
    assert bench.submitted() == [1, 2]
    bench.finish(1)
    bench.say(produced(2, 9, 8, 3))
    bench.finish(2)
    for ticket in (streamed, another):
        assert [event.tokens async for event in ticket.deltas()] == [[9, 8, 3]]
    bench.assert_idle()


async def test_worker_that_dies_takes_no_follower_with_it(bench: Bench) -> None:
    tickets = [bench.ask(), bench.ask()]
    bench.lose()
    tickets.append(bench.ask())
    bench.ready("worker-0.1")
    bench.finish(1)
    assert [(await ticket.result()).request_id for ticket in tickets] == [1, 1, 1]
    assert counts(bench) == (0, 1, 2)
    bench.assert_idle()


# --- In the queue ---


def fill(bench: Bench) -> None:
    """Takes all credit of the worker: numbers 1 to 6."""
    for number in range(6):
        bench.ask([number, 3])


async def test_queued_request_is_joined_by_its_own_client(bench: Bench) -> None:
    fill(bench)
    tickets = [bench.ask(client="a") for _ in range(4)]
    assert bench.value("queue_length") == 1
    tickets[0].cancel("client")
    bench.finish(1)
    bench.finish(tickets[1].job.id if tickets[1].job else 0)
    for ticket in tickets[1:]:
        assert (await ticket.result()).outcome.hypotheses
    assert counts(bench) == (0, 7, 3)


async def test_queued_request_does_not_hold_back_others(bench: Bench) -> None:
    """A request of another client, or of a higher priority, keeps its own place; the two are merged when one is sent."""
    fill(bench)
    for number in range(20):
        bench.ask([100 + number, 3], client="noisy")
    last = bench.ask(client="noisy")
    other, urgent = bench.ask(client="quiet"), bench.ask(client="noisy", priority=1)
    assert bench.value("queue_length") == 23
    bench.finish(1)
    assert urgent.job is not None
    assert bench.submitted()[-1] == urgent.job.id
    assert bench.submitted(0)[6:] == [urgent.job.id]
    bench.finish(2)
    assert other.job is urgent.job, "its turn came, and it joined"
    for number in range(3, 7):
        bench.finish(number)
    bench.finish(urgent.job.id)
    assert [(await ticket.result()).request_id for ticket in (other, urgent)] == [urgent.job.id] * 2
    while not last.is_done:
        bench.finish(bench.submitted()[-1])
    assert (await last.result()).request_id == 0, "from the cache, when its turn came"
    assert last.job is not None
    assert last.job.id not in bench.submitted()


async def test_queued_stream_is_answered_from_the_cache(bench: Bench) -> None:
    unary = bench.ask()
    fill(bench)
    streamed = bench.ask(is_streamed=True)
    assert not streamed.is_done
    bench.finish(1)
    assert unary.is_done
    assert streamed.is_done
    assert [event.tokens async for event in streamed.deltas()] == [[9, 8, 3]]
    for number in range(2, 8):
        bench.finish(number)
    bench.assert_idle()


async def test_too_many_for_one_job_are_queued() -> None:
    bench = await Bench(limit=4, cache_bytes=MIB).start()
    for _ in range(6):
        bench.ask()
    assert bench.submitted() == [1, 2]
