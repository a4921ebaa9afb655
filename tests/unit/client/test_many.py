# SPDX-License-Identifier: Apache-2.0
"""Many calls at once: order, bounds, errors, cancellation; and the book-keeping behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from attnserve_client import ExecutionFailed, InvalidRequest, Translation
from attnserve_client.window import OrderedWindow
from tests.fakes.server import OVERLOADED, UNAVAILABLE, Failure, FakeServer, wait_until

TEXTS = [f"text{index}" for index in range(40)]
BROKEN = Failure(grpc.StatusCode.INTERNAL, "broken", "EXECUTION_FAILED")


def test_order_is_kept(client: Any, server: FakeServer) -> None:
    # Every fourth answer is late, so that later ones overtake it.
    server.translation.before = lambda request, _: time.sleep(0.02 if int(request.text[4:]) % 4 == 0 else 0)
    answers = list(client.translate_many(TEXTS, max_in_flight=8))
    assert [answer.text for answer in answers] == [text.upper() for text in TEXTS]


def test_max_in_flight(client: Any, server: FakeServer) -> None:
    def wait(*_: Any) -> None:
        wait_until(lambda: server.translation.max_running >= 6)
        time.sleep(0.005)  # so that one too many would run beside the others

    server.translation.before = wait
    list(client.translate_many(TEXTS, max_in_flight=6))
    assert server.translation.max_running == 6


def test_a_slow_one_does_not_stop_the_rest_but_the_rest_is_bounded(client: Any, server: FakeServer) -> None:
    gate = threading.Event()
    server.translation.before = lambda request, _: request.text == "text0" and gate.wait(30)
    answers = client.translate_many(TEXTS, max_in_flight=4)
    opener = threading.Thread(target=lambda: (wait_until(lambda: len(server.translation.requests) == 16), gate.set()))
    opener.start()
    assert next(answers).text == "TEXT0"
    opener.join()
    assert len(list(answers)) == len(TEXTS) - 1


def test_what_is_ready_is_handed_out_before_more_is_drawn(client: Any) -> None:
    drawn: list[str] = []

    def draw() -> Iterator[str]:
        for text in TEXTS[:3]:
            drawn.append(text)
            yield text

    for index, answer in enumerate(client.translate_many(draw(), max_in_flight=1)):
        assert answer.text == TEXTS[index].upper()
        assert len(drawn) == index + 1


def test_nothing_to_do(client: Any) -> None:
    assert list(client.translate_many([])) == []


def test_retries_inside_the_window(client: Any, server: FakeServer) -> None:
    server.translation.failures.extend([OVERLOADED, UNAVAILABLE] * 5)
    assert [answer.text for answer in client.translate_many(TEXTS[:20])] == [text.upper() for text in TEXTS[:20]]
    assert len(server.translation.requests) == 30


def fail_on(*texts: str) -> Any:
    return lambda request, context: BROKEN.abort(context) if request.text in texts else None


def test_first_error_is_raised_in_its_turn(client: Any, server: FakeServer) -> None:
    server.translation.before = fail_on("text2", "text5")
    answers = client.translate_many(TEXTS[:8])
    assert [next(answers).text, next(answers).text] == ["TEXT0", "TEXT1"]
    with pytest.raises(ExecutionFailed):
        next(answers)


def test_errors_are_returned_in_their_places(client: Any, server: FakeServer) -> None:
    server.translation.before = fail_on("text2", "text5")
    answers = list(client.translate_many(TEXTS[:8], on_error="return"))
    assert [isinstance(answer, Translation) for answer in answers] == [index not in (2, 5) for index in range(8)]
    assert answers[5].reason == "EXECUTION_FAILED"


@pytest.mark.parametrize("max_in_flight", [1, 2, 64])
def test_text_that_cannot_be_sent_is_an_error_in_its_place(client: Any, server: FakeServer, max_in_flight: int) -> None:
    texts = ["\udcff", "a", "\ud800", "\udcff", "b", "\udcff"]
    answers = list(client.translate_many(texts, on_error="return", max_in_flight=max_in_flight))
    assert [answer.text if isinstance(answer, Translation) else answer.field for answer in answers] == [
        "text", "A", "text", "text", "B", "text",
    ]  # fmt: skip
    iterator = client.translate_many(["a", "\ud800", "b"], max_in_flight=max_in_flight)
    assert next(iterator).text == "A"
    with pytest.raises(InvalidRequest, match=r"not valid Unicode: character 1 is the lone surrogate U\+D800$"):
        next(iterator)


def test_error_in_its_place_is_handed_out_before_more_is_drawn(client: Any) -> None:
    drawn: list[str] = []

    def draw() -> Iterator[str]:
        for text in ("\udcff", "a", "\udcff"):
            drawn.append(text)
            yield text

    for index, _ in enumerate(client.translate_many(draw(), on_error="return", max_in_flight=1)):
        assert len(drawn) == index + 1


def test_closing_early_cancels(client: Any, server: FakeServer) -> None:
    gate, num_ended = threading.Event(), threading.Semaphore(0)

    def wait(request: Any, context: Any) -> None:
        context.add_callback(num_ended.release)
        if request.text != "text0":
            gate.wait(30)

    server.translation.before = wait
    answers = client.translate_many(TEXTS, max_in_flight=5)
    assert next(answers).text == "TEXT0"
    wait_until(lambda: server.translation.num_running >= 4)
    answers.close()
    client.list_models()  # gives the aio client's loop a turn
    for _ in range(5):
        assert num_ended.acquire(timeout=25)
    gate.set()
    assert len(server.translation.requests) <= 6


def test_arguments_are_checked_at_once(client: Any) -> None:
    with pytest.raises(ValueError, match="on_error"):
        client.translate_many(TEXTS, on_error="ignore")
    with pytest.raises(InvalidRequest):
        client.translate_many(TEXTS, beam_size=-1)
    with pytest.raises(ValueError, match="max_in_flight"):
        next(client.translate_many(TEXTS, max_in_flight=0))


def test_window() -> None:
    window: OrderedWindow[str] = OrderedWindow(2)
    first, second = window.start(), window.start()
    assert not window.has_room()
    window.finish(second, "b")
    assert window.has_room()
    assert window.take_ready() == []
    window.finish(first, "a")
    assert window.take_ready() == ["a", "b"]
    assert window.is_empty()


def test_window_bounds_what_waits_for_a_slow_one() -> None:
    window: OrderedWindow[int] = OrderedWindow(2)
    slow = window.start()
    while window.has_room():
        index = window.start()
        window.finish(index, index)
    window.finish(slow, slow)
    assert window.take_ready() == list(range(8))
