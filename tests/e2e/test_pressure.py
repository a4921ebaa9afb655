# SPDX-License-Identifier: Apache-2.0
"""More requests than the server can serve: fair shares of clients, priorities, and immediate refusal of unreachable deadlines."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from attnserve.v1 import translation_pb2, translation_pb2_grpc
from attnserve.v1.decoding_pb2 import DecodeOptions
from tests.chaos.generator import Load, Sent, generate
from tests.e2e.serving import SENTENCES, Server, details, eventually, serve
from tests.other_work import bars

SLOTS = ("--workers", "1", "--slots", "8", "--log-level", "warning")
BEAM = DecodeOptions(beam_size=4)
"""Two of these requests fill the slots; slow enough for a backlog on any machine."""

pytestmark = pytest.mark.load


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose queue is large enough for all load of this module."""
    with serve(tmp_path_factory.mktemp("server"), *SLOTS, "--queue-limit", "1500") as running:
        yield running


def translate(channel: grpc.Channel, text: str, client: str = "", priority: int = 0, timeout: float = 60.0) -> grpc.Future:
    stub = translation_pb2_grpc.TranslationServiceStub(channel)
    request = translation_pb2.TranslateRequest(text=text, priority=priority, options=BEAM)
    return stub.Translate.future(request, timeout=timeout, metadata=[("x-client-id", client)] if client else None)


def serialised(priority: int = 0) -> list[str]:
    requests = [translation_pb2.TranslateRequest(text=text, priority=priority, options=BEAM) for text in SENTENCES[:40]]
    return [request.SerializeToString().hex() for request in requests]


@contextmanager
def flood(
    server: Server, num_clients: int, seconds: float, client: str = "noisy", priority: int = 0
) -> Iterator[Callable[[], list[Sent]]]:
    """Keeps ``num_clients`` requests of one client in flight, from another process; yields once they wait."""
    load = Load(server.target, seconds, serialised(priority), num_clients=num_clients, client=client, timeout_s=100)
    before = server.scrape().total("attnserve_queue_length")
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(generate, load)
        wanted = before + 0.7 * num_clients
        eventually(lambda: sent.done() or server.scrape().total("attnserve_queue_length") > wanted, "the flood", 30, 0.05)
        yield sent.result


def latencies(channel: grpc.Channel, client: str, num: int) -> list[float]:
    """Latencies of requests, one after the other."""
    seconds = []
    for text in SENTENCES[:num]:
        began = time.monotonic()
        translate(channel, text, client).result()
        seconds.append(time.monotonic() - began)
    return sorted(seconds)


def rejected(server: Server) -> float:
    return server.scrape().total("attnserve_requests_rejected_total")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("num_open", [300, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.quiet
def test_noisy_client_does_not_harm_a_quiet_one(server: Server, channel: grpc.Channel, num_open: int) -> None:
    """One client has many requests in flight while another one sends one at a time."""
    already = rejected(server)
    latencies(channel, "quiet", 5)
    alone = latencies(channel, "quiet", 40)
    with flood(server, num_open, 4.0) as sent:
        beside = latencies(channel, "quiet", 40)
        num_waiting = server.scrape().total("attnserve_queue_length")
        noisy = sent()
    assert num_waiting > num_open / 2, "the flood was over before its end"
    assert Counter(each.code for each in noisy) == {"OK": len(noisy)}
    factor = beside[37] / alone[37]
    behind = statistics.median(each.seconds for each in noisy)
    print(
        f"p95 {beside[37] * 1e3:.0f} ms beside the noisy client, {alone[37] * 1e3:.0f} ms alone: {factor:.1f} times; median"
        f" {statistics.median(beside) * 1e3:.0f} and {statistics.median(alone) * 1e3:.0f} ms; the noisy one's {behind:.1f} s"
    )
    assert rejected(server) == already
    with bars():
        assert factor < 8, "others decode in the same batch, and their slots must come free"
        assert beside[37] < behind / 10


def test_part_of_the_queue_is_kept_for_others(tmp_path: Path) -> None:
    with serve(tmp_path, *SLOTS, "--queue-limit", "40") as server, server.channel() as channel:
        futures = [translate(channel, SENTENCES[number % 40], "noisy") for number in range(200)]
        eventually(lambda: server.scrape().total("attnserve_requests_rejected_total") > 50, "refusals")
        quiet = [translate(channel, text, "quiet") for text in SENTENCES[:3]]
        assert [future.exception() for future in quiet] == [None] * 3
        refused = [error for future in futures if (error := future.exception()) is not None]
        assert refused
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        retries = [details(error).retry_s for error in refused]
        assert all(retry is not None and 0 < retry <= 10 for retry in retries)


def finishing_order(futures: dict[str, list[grpc.Future]]) -> list[str]:
    """The kind of each answer, in the order of arrival."""
    order, lock = list[str](), threading.Lock()

    def note(kind: str) -> None:
        with lock:
            order.append(kind)

    for kind, members in futures.items():
        for future in members:
            future.add_done_callback(lambda _, kind=kind: note(kind))
    total = sum(map(len, futures.values()))
    eventually(lambda: len(order) == total, "all answers", 60)
    return order


def test_high_priority_overtakes(tmp_path: Path) -> None:
    with serve(tmp_path, *SLOTS, "--ageing-seconds", "600") as server, server.channel() as channel:
        low = [translate(channel, SENTENCES[number % 40], "one", -2) for number in range(150)]
        eventually(lambda: server.scrape().total("attnserve_queue_length") > 80, "a queue", 10, 0.01)
        high = [translate(channel, text, "one", 2) for text in SENTENCES[:10]]
        order = finishing_order({"low": low, "high": high})
        overtaken = len(order) - 1 - max(index for index, kind in enumerate(order) if kind == "high")
        print(f"{overtaken} of 150 low ones were answered after the last high one")
        assert overtaken > 40


@pytest.mark.parametrize("client", ["one", "two"])
def test_low_priority_is_not_starved(tmp_path: Path, client: str) -> None:
    with serve(tmp_path, *SLOTS, "--ageing-seconds", "0.25") as server, server.channel() as channel:
        with flood(server, 100, 4.0, "one", priority=2) as sent:
            began = time.monotonic()
            low = translate(channel, SENTENCES[0], client, -2)
            low.result()
            seconds = time.monotonic() - began
            num_waiting = server.scrape().total("attnserve_queue_length")
            noisy = sent()
        print(f"answered after {seconds:.2f} s, of which 1.0 s to the highest level")
        assert num_waiting > 50, "the flood was over before the answer"
        assert seconds > 0.5, "it waited, though"
        assert Counter(each.code for each in noisy) == {"OK": len(noisy)}


@pytest.mark.quiet
def test_unreachable_deadline_is_refused_at_once(server: Server, channel: grpc.Channel) -> None:
    already = server.scrape()
    translate(channel, SENTENCES[0], "noisy", timeout=0.5).exception()
    assert rejected(server) == already.total("attnserve_requests_rejected_total"), "an idle server tries"

    def grown(name: str, **labels: str) -> float:
        return server.scrape().total(f"attnserve_{name}", **labels) - already.total(f"attnserve_{name}", **labels)

    with flood(server, 300, 4.0) as sent:
        eventually(lambda: grown("requests_total", code="OK") > 20, "evidence")
        errors, seconds = [], []
        for text in SENTENCES[:20]:
            began = time.monotonic()
            errors.append(translate(channel, text, "noisy", timeout=0.3).exception())
            seconds.append(time.monotonic() - began)
        patient = translate(channel, SENTENCES[0], "noisy", timeout=60)
        quiet = translate(channel, SENTENCES[1], "quiet", timeout=10)
        assert quiet.exception() is None, "with fair shares, another client is in time"
        noisy = sent()
        assert patient.exception() is None
    assert {error.code() for error in errors} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    refused = grown("requests_rejected_total", reason="deadline_unreachable")
    assert refused >= 18
    assert [details(error).reason for error in errors].count("DEADLINE_UNREACHABLE") == refused
    quick = grown("refusal_duration_seconds_bucket", reason="deadline_unreachable", le="0.05")
    print(
        f"{refused:.0f} of 20 refused, {quick:.0f} within 50 ms on the server; the client saw {statistics.median(seconds) * 1e3:.1f} ms"
    )
    with bars():
        assert quick == refused
        assert statistics.median(seconds) < 0.05
    assert Counter(each.code for each in noisy) == {"OK": len(noisy)}, "the others are unaffected"
