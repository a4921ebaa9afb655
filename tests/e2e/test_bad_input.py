# SPDX-License-Identifier: Apache-2.0
"""Every bad request gets its documented status with the field at fault; the server and other requests are not affected."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from attnserve.v1.decoding_pb2 import DecodeOptions, SamplingOptions
from tests.e2e.serving import LONG_TEXT, SENTENCES, STREAM, UNARY, Server, ask, details, eventually, start_unary, texts

GOOD = SENTENCES[0]
BAD: dict[str, tuple[str, str, DecodeOptions | None]] = {
    "empty": ("text", "", None),
    "white-space": ("text", " \t\n\u3000 ", None),
    "invisible": ("text", "\u200b\ufeff\x01\u2060\u00ad\ufe0f", None),
    "empty-to-the-tokenizer": ("text", "\u2581\ufffd", None),
    "megabyte": ("text", "dog " * 250_000, None),
    "beam": ("options.beam_size", GOOD, DecodeOptions(beam_size=10_000)),
    "no-beam": ("options.beam_size", GOOD, DecodeOptions(beam_size=0)),
    "n-best-above-beam": ("options.num_hypotheses", GOOD, DecodeOptions(beam_size=2, num_hypotheses=3)),
    "n-best-of-greedy": ("options.num_hypotheses", GOOD, DecodeOptions(num_hypotheses=2)),
    "penalty-nan": ("options.length_penalty", GOOD, DecodeOptions(length_penalty=math.nan)),
    "penalty-negative": ("options.length_penalty", GOOD, DecodeOptions(length_penalty=-0.5)),
    "penalty-infinite": ("options.length_penalty", GOOD, DecodeOptions(length_penalty=math.inf)),
    "max-tokens": ("options.max_tokens", GOOD, DecodeOptions(max_tokens=129)),
    "max-tokens-huge": ("options.max_tokens", GOOD, DecodeOptions(max_tokens=2**32 - 1)),
    "no-tokens": ("options.max_tokens", GOOD, DecodeOptions(max_tokens=0)),
    "coverage-nan": ("options.coverage_penalty", GOOD, DecodeOptions(coverage_penalty=math.nan)),
    "repetition-zero": ("options.repetition_penalty", GOOD, DecodeOptions(repetition_penalty=0)),
    "temperature-tiny": ("options.sampling.temperature", GOOD, DecodeOptions(sampling=SamplingOptions(temperature=1e-40))),
    "sampling-a-beam": ("options.sampling", GOOD, DecodeOptions(sampling=SamplingOptions(), beam_size=2)),
    "prefix-invisible": ("options.prefix", GOOD, DecodeOptions(prefix="\u200b")),
    "prefix-empty-to-the-tokenizer": ("options.prefix", GOOD, DecodeOptions(prefix="\u2581")),
    "prefix-joiner": ("options.prefix", GOOD, DecodeOptions(prefix="\u2060")),
    "prefix-unknown": ("options.prefix", GOOD, DecodeOptions(prefix="Ein 🎸")),
    "prefix-as-long-as-the-answer": ("options.prefix", GOOD, DecodeOptions(prefix="Ein Hund", max_tokens=2)),
    "prefix-megabyte": ("options.prefix", GOOD, DecodeOptions(prefix="Hund " * 200_000)),
}

pytestmark = pytest.mark.usefixtures("neighbour")
both = pytest.mark.parametrize("kind", [UNARY, STREAM])


@pytest.fixture(scope="module")
def expected(channel: grpc.Channel) -> list[str]:
    return texts(ask(channel, LONG_TEXT))


@pytest.fixture
def neighbour(server: Server, channel: grpc.Channel, expected: list[str]) -> Iterator[None]:
    """A long request that decodes meanwhile: its answer does not change, and the server still runs."""
    future = start_unary(channel, LONG_TEXT)
    yield
    assert texts(future.result(timeout=60)) == expected
    server.assert_unharmed()
    assert texts(ask(channel, LONG_TEXT, DecodeOptions(max_tokens=4)))
    eventually(lambda: server.scrape().total("attnserve_slots", state="used") == 0, "all slots free")


def refused(channel: grpc.Channel, text: str, options: DecodeOptions | None = None, **arguments: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as raised:
        ask(channel, text, options, **arguments)
    return raised.value


def send_bytes(channel: grpc.Channel, method: str, data: bytes) -> None:
    """Sends raw bytes that no stub would send."""
    path = f"/attnserve.v1.TranslationService/{method}"
    if method == "Translate":
        channel.unary_unary(path)(data, timeout=20)
    else:
        list(channel.unary_stream(path)(data, timeout=20))


@both
@pytest.mark.parametrize("name", BAD)
def test_invalid_argument(channel: grpc.Channel, name: str, kind: str) -> None:
    field, text, options = BAD[name]
    error = refused(channel, text, options, kind=kind)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error).fields == (field,)
    assert details(error).reason == "INVALID_REQUEST"
    assert 0 < len(error.details()) <= 500
    assert "Traceback" not in error.details()


@both
def test_values_of_options_that_change_nothing(channel: grpc.Channel, kind: str) -> None:
    neutral = DecodeOptions(coverage_penalty=0, min_tokens=0, no_repeat_ngram_size=0, repetition_penalty=1, prefix="")
    assert texts(ask(channel, GOOD, neutral, kind=kind)) == texts(ask(channel, GOOD, kind=kind))


@both
@pytest.mark.parametrize("priority", [-3, 3, 2**31 - 1, -(2**31)])
def test_priority_out_of_range(channel: grpc.Channel, kind: str, priority: int) -> None:
    error = refused(channel, GOOD, kind=kind, priority=priority)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error).fields == ("priority",)
    for good in (-2, -1, 1, 2):
        assert texts(ask(channel, GOOD, kind=kind, priority=good)) == texts(ask(channel, GOOD, kind=kind))


@both
def test_source_over_the_piece_limit_is_never_cut(channel: grpc.Channel, kind: str) -> None:
    words = 1
    while len(ask(channel, "dog " * words, DecodeOptions(max_tokens=1)).source_pieces) < 128:
        pieces = len(ask(channel, "dog " * words, DecodeOptions(max_tokens=1)).source_pieces)
        words += max(1, (128 - pieces) // 2)
        assert words < 200
    assert len(ask(channel, "dog " * words, DecodeOptions(max_tokens=1), kind=kind).source_pieces) == 128  # 127 and the end
    for extra in (1, 2, 60, 1000):
        error = refused(channel, "dog " * (words + extra), kind=kind)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details(error).fields == ("text",)
        assert details(error).reason == "SEQUENCE_TOO_LONG"
        assert "127" in error.details()


@pytest.mark.parametrize("method", ["Translate", "TranslateStream"])
@pytest.mark.parametrize("data", [b"\x0a\x03\xff\xfe\xfd", b"\x0a\x02\xc3\x28", b"\x0a\x03\xed\xa0\x80"])
def test_invalid_utf8_on_the_wire(channel: grpc.Channel, method: str, data: bytes) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        send_bytes(channel, method, data)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(raised.value).fields == ("text",)


@pytest.mark.parametrize("method", ["Translate", "TranslateStream"])
@pytest.mark.parametrize("data", [b"\x0a\xff", b"\xff" * 40, b"\x0a\x05ab"], ids=["cut", "noise", "short"])
def test_bytes_that_are_no_message(channel: grpc.Channel, method: str, data: bytes) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        send_bytes(channel, method, data)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(raised.value).reason


@both
@pytest.mark.parametrize(("field", "model", "version"), [("model", "nobody", ""), ("version", "", "77"), ("version", "", "x")])
def test_not_found(channel: grpc.Channel, kind: str, field: str, model: str, version: str) -> None:
    error = refused(channel, GOOD, kind=kind, model=model, version=version)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert details(error).fields == (field,)
    assert details(error).reason == "MODEL_NOT_FOUND"


@both
def test_message_over_the_limit(channel: grpc.Channel, kind: str) -> None:
    assert refused(channel, "a" * (12 * 1024 * 1024 + 1), kind=kind).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@both
@pytest.mark.parametrize("timeout", [-1.0, 0.0, 1e-6, 5e-4])
def test_deadline_already_past(channel: grpc.Channel, kind: str, timeout: float) -> None:
    options = DecodeOptions(beam_size=8) if kind == UNARY else None
    error = refused(channel, LONG_TEXT, options, kind=kind, timeout=timeout)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
