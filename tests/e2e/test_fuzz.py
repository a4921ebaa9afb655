# SPDX-License-Identifier: Apache-2.0
"""Random requests, a thousand or (``long``) five thousand: each gets a status, and other requests are not affected.

`-s` shows the histogram of the statuses; it is also in the JUnit report (`record_property`).
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnserve.v1.decoding_pb2 import DecodeOptions, SamplingOptions
from attnserve.v1.translation_pb2 import TranslateRequest, TranslateResponse, TranslateStreamRequest, TranslateStreamResponse
from tests.e2e.serving import SENTENCES, Server, ask, eventually, texts

GROUP = 25
SERVICE = "/attnserve.v1.TranslationService/"
TIMEOUT_S = 60.0
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
REACHED = {grpc.StatusCode.OK}
"""Statuses of requests that certainly reached the engine."""

words = st.sampled_from(
    [
        "a",
        "dog",
        "two",
        "girls",
        "run",
        ",",
        ".",
        "snow",
        "puddle",
        "bicycle",
        "\n",
        "red",
        "RED",
        "ß",
        "漢字",
        "🙂",
        "\u200b",
        "́",
        "1,000",
        "'",
        '"',
        "<unk>",
        "▁",
        "</s>",
    ]
)
plain_texts = st.sampled_from(SENTENCES) | st.lists(words, min_size=1, max_size=12).map(" ".join)
odd_texts = st.text(max_size=40) | st.sampled_from(["", " ", "\n", "x" * 10_001, "dog " * 300, "\x00", "🙂" * 50])
unsigned, signed = st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1)
numbers = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, 1e-38, 3e38, -1.0])


def optional(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | strategy


def message(kind: type, **fields: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.fixed_dictionaries(fields).map(
        lambda given: kind(**{name: value for name, value in given.items() if value is not None})
    )


good_options = message(
    DecodeOptions,
    beam_size=optional(st.integers(1, 8)),
    length_penalty=optional(st.floats(0, 3, width=32)),
    coverage_penalty=optional(st.floats(0, 1, width=32)),
    max_tokens=st.integers(8, 40),
    min_tokens=optional(st.integers(0, 8)),
    no_repeat_ngram_size=optional(st.integers(0, 4)),
    repetition_penalty=optional(st.floats(0.5, 3, width=32)),
    prefix=st.sampled_from(["", "", "Ein Hund", "Zwei"]),
    return_attention=st.integers(0, 3),
)
sampled_options = message(
    DecodeOptions,
    num_hypotheses=optional(st.integers(1, 8)),
    max_tokens=st.integers(1, 40),
    sampling=message(
        SamplingOptions,
        temperature=optional(st.floats(0.125, 5, width=32)),
        top_k=optional(st.integers(0, 20_000)),
        top_p=optional(st.floats(0.0625, 1, width=32)),
        seed=optional(st.integers(0, 2**64 - 1)),
    ),
)
odd_options = message(
    DecodeOptions,
    beam_size=optional(unsigned | st.integers(0, 12)),
    num_hypotheses=optional(unsigned | st.integers(0, 12)),
    length_penalty=optional(numbers),
    coverage_penalty=optional(numbers),
    max_tokens=optional(unsigned | st.integers(0, 200)),
    min_tokens=optional(unsigned | st.integers(0, 200)),
    no_repeat_ngram_size=optional(unsigned | st.integers(0, 5)),
    repetition_penalty=optional(numbers),
    sampling=optional(
        message(
            SamplingOptions,
            temperature=optional(numbers),
            top_k=optional(unsigned),
            top_p=optional(numbers),
            seed=optional(st.integers(0, 2**64 - 1)),
        )
    ),
    prefix=odd_texts | plain_texts,
    return_attention=st.integers(-1, 9),
)


def requests(kind: type) -> st.SearchStrategy[bytes]:
    good = message(
        kind,
        text=plain_texts,
        options=good_options | sampled_options,
        split_sentences=st.booleans(),
        priority=optional(st.integers(-2, 2)),
    )
    odd = message(
        kind,
        text=odd_texts | plain_texts,
        model=st.sampled_from(["", "", "transformer-en-de", "nobody"]) | st.text(max_size=9),
        version=st.sampled_from(["", "", "1", "7"]) | st.text(max_size=3),
        options=odd_options,
        split_sentences=st.booleans(),
        priority=optional(signed),
    )
    serialized = (good | good | odd).map(lambda request: request.SerializeToString())  # type: ignore[attr-defined]
    return serialized | serialized | serialized | st.binary(max_size=60)


calls = requests(TranslateRequest).map(lambda data: ("Translate", data)) | requests(TranslateStreamRequest).map(
    lambda data: ("TranslateStream", data)
)


@dataclass
class Driver:
    """Sends raw bytes and counts how the calls end."""

    channel: grpc.Channel
    statuses: Counter[grpc.StatusCode] = field(default_factory=Counter)

    def send(self, group: list[tuple[str, bytes]]) -> None:
        with_calls = [(name, data, self._start(name, data)) for name, data in group]
        for name, data, call in with_calls:
            try:
                self._check(name, call)
                code = grpc.StatusCode.OK
            except grpc.RpcError as error:
                code = error.code()
            self.statuses[code] += 1
            assert code in EXPECTED, (name, data, code)

    def _start(self, name: str, data: bytes):
        if name == "Translate":
            return self.channel.unary_unary(SERVICE + name, response_deserializer=TranslateResponse.FromString).future(
                data, timeout=TIMEOUT_S
            )
        stream = self.channel.unary_stream(SERVICE + name, response_deserializer=TranslateStreamResponse.FromString)
        return stream(data, timeout=TIMEOUT_S)

    def _check(self, name: str, call) -> None:
        if name == "Translate":
            answer = call.result()
        else:
            *parts, last = list(call)
            answer = last.result
            assert "".join(part.delta.text for part in parts) in ("", answer.hypotheses[0].text)
        for one in answer.hypotheses:
            assert "⁇" not in one.text
            assert [one.text[piece.begin : piece.end] for piece in one.pieces] == [piece.text for piece in one.pieces]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("num_requests", [1000, pytest.param(5000, marks=pytest.mark.long)])
def test_random_requests_get_a_status(server: Server, num_requests: int, record_property: pytest.RecordProperty) -> None:
    stop, changed, failures, num_others = threading.Event(), list[str](), list[Exception](), itertools.count()
    with server.channel() as others, server.channel() as channel:
        expected = {text: texts(ask(others, text)) for text in SENTENCES[:12]}

        def neighbour() -> None:
            try:
                while not stop.is_set():
                    for text, answer in expected.items():
                        if texts(ask(others, text)) != answer:
                            changed.append(text)
                        next(num_others)
            except grpc.RpcError as error:
                failures.append(error)

        driver = Driver(channel)

        @settings(
            max_examples=num_requests // GROUP,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        )
        @given(st.lists(calls, min_size=GROUP, max_size=GROUP))
        def fuzz(group: list[tuple[str, bytes]]) -> None:
            driver.send(group)

        thread = threading.Thread(target=neighbour)
        thread.start()
        try:
            fuzz()
        finally:
            stop.set()
            thread.join(60)
    histogram = {code.name: number for code, number in driver.statuses.most_common()}
    total, reached = driver.statuses.total(), sum(driver.statuses[code] for code in REACHED)
    print(f"\n{total} requests: {histogram}; {reached / total:.0%} were answered; {next(num_others)} other requests")
    record_property("statuses", histogram)
    assert total >= num_requests
    assert reached >= 0.3 * total
    assert len(histogram) > 2, "too few requests were refused"
    assert not failures and not changed
    assert server.scrape().total("attnserve_requests_total", code="INTERNAL") == 0
    assert server.scrape().total("attnserve_requests_total", code="UNKNOWN") == 0
    eventually(lambda: server.scrape().total("attnserve_slots", state="used") == 0, "all slots free")
    server.assert_unharmed()
