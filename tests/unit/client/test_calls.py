# SPDX-License-Identifier: Apache-2.0
"""Single calls of both clients: answers, deadlines, retries, streams, models and health."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from attnserve.v1 import decoding_pb2
from attnserve_client import (
    Client,
    ClientClosed,
    DeadlineExceeded,
    DecodeOptions,
    FinishReason,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    Piece,
    ScoreNormalization,
    ServerUnreachable,
    Task,
    Translation,
    TranslationDelta,
)
from tests.fakes.server import NUM_HEADS, NUM_LAYERS, OVERLOADED, UNAVAILABLE, Failure, FakeServer, wait_until
from tests.unit.client.conftest import FAST_RETRIES


def test_answer_is_converted(client: Any) -> None:
    translation = client.translate("a dog runs", model="m", num_hypotheses=2, beam_size=4)
    assert translation.text == "RUNS DOG A"
    assert (translation.model, translation.version, translation.timings.total_s) == ("m", "1", 0.5)
    assert translation.source_pieces == (Piece("a", 0, 1), Piece(" dog", 1, 5), Piece(" runs", 5, 10), Piece("", 10, 10))
    assert [piece.label for piece in translation.source_pieces] == ["a", "dog", "runs", "</s>"]
    second = translation.hypotheses[1]
    assert (second.text, second.score, second.attention) == ("RUNS DOG A!", -1.5, None)
    assert second.finish_reason is FinishReason.STOP
    assert second.normalization is ScoreNormalization.LENGTH


def test_options_and_keywords(client: Any, server: FakeServer) -> None:
    client.translate("x", version="7", options=DecodeOptions(beam_size=3, max_tokens=9), max_tokens=5, length_penalty=0.0)
    request = server.translation.requests[0]
    assert (request.version, request.options.beam_size, request.options.max_tokens) == ("7", 3, 5)
    assert request.options.HasField("length_penalty")
    assert not request.options.HasField("num_hypotheses")
    assert request.options.return_attention == decoding_pb2.ATTENTION_DETAIL_NONE


EVERY_OPTION: dict[str, Any] = {
    "beam_size": 1,
    "num_hypotheses": 2,
    "length_penalty": 0.5,
    "coverage_penalty": 0.25,
    "max_tokens": 9,
    "min_tokens": 2,
    "no_repeat_ngram_size": 3,
    "repetition_penalty": 1.5,
    "temperature": 0.75,
    "top_k": 7,
    "top_p": 0.5,
    "seed": 2**64 - 1,
    "prefix": "Ein",
    "return_attention": "mean",
    "omit_score": True,
}


def test_every_option_is_sent(client: Any, server: FakeServer) -> None:
    expected = decoding_pb2.DecodeOptions(
        beam_size=1,
        num_hypotheses=2,
        length_penalty=0.5,
        coverage_penalty=0.25,
        max_tokens=9,
        min_tokens=2,
        no_repeat_ngram_size=3,
        repetition_penalty=1.5,
        sampling=decoding_pb2.SamplingOptions(temperature=0.75, top_k=7, top_p=0.5, seed=2**64 - 1),
        prefix="Ein",
        return_attention=decoding_pb2.ATTENTION_DETAIL_MEAN,
        omit_score=True,
    )
    assert {field.name for field, _ in expected.ListFields()} == set(decoding_pb2.DecodeOptions.DESCRIPTOR.fields_by_name)
    client.translate("x", **EVERY_OPTION)
    client.translate("x", options=DecodeOptions(**EVERY_OPTION), split_sentences=True, priority=-2)
    list(client.translate_stream("x", split_sentences=True, priority=2, **EVERY_OPTION))
    list(client.translate_many(["x"], split_sentences=True, priority=1, **EVERY_OPTION))
    assert [request.options for request in server.translation.requests] == [expected] * 4
    own = [(request.split_sentences, request.priority) for request in server.translation.requests]
    assert own == [(False, 0), (True, -2), (True, 2), (True, 1)]


@pytest.mark.parametrize("option", [{"temperature": 1.0}, {"top_k": 0}, {"top_p": 1.0}, {"seed": 0}], ids=str)
def test_each_option_of_sampling_asks_for_it(client: Any, server: FakeServer, option: dict[str, Any]) -> None:
    client.translate("x", **option)
    client.translate("x", temperature=None, seed=None)
    sampled, searched = server.translation.requests
    assert sampled.options.HasField("sampling")
    assert [field.name for field, _ in sampled.options.sampling.ListFields()] == list(option)
    assert not searched.options.HasField("sampling")


def test_client_id(make_client: Any, server: FakeServer) -> None:
    client = make_client(client_id="me-1")
    client.translate("x")
    list(client.translate_stream("x"))
    list(client.translate_many(["x"]))
    make_client().translate("x")
    assert server.translation.clients == ["me-1", "me-1", "me-1", None]
    for bad in ("with space", "ü", "x" * 129, "line\n"):
        with pytest.raises(ValueError, match="client_id"):
            make_client(client_id=bad)


def test_copied_pieces_and_coverage(client: Any, server: FakeServer) -> None:
    def alter(response: Any) -> None:
        response.hypotheses[0].pieces[0].copied_from = 0
        response.hypotheses[0].normalization = decoding_pb2.SCORE_NORMALIZATION_COVERAGE

    server.translation.alter = alter
    best = client.translate("a dog").best
    assert [piece.copied_from for piece in best.pieces] == [0, None, None]
    assert best.normalization is ScoreNormalization.COVERAGE


@pytest.mark.parametrize(
    ("keywords", "field"),
    [
        ({"seed": -1}, "options.sampling.seed"),
        ({"top_p": "most"}, "options.sampling.top_p"),
        ({"prefix": "\udc80"}, "options.prefix"),
        ({"prefix": 3}, "options.prefix"),
        ({"priority": 2**40}, "priority"),
        ({"split_sentences": "yes"}, "split_sentences"),
        ({"beam_size": -1}, "options.beam_size"),
        ({"max_tokens": "many"}, "options.max_tokens"),
        ({"return_attention": "some"}, "options.return_attention"),
    ],
)
def test_options_that_cannot_be_sent(client: Any, server: FakeServer, keywords: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.translate("x", **keywords)
    assert caught.value.field == field
    assert not server.translation.requests


def test_text_that_cannot_be_sent(client: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.translate("\udc80")
    assert caught.value.field == "text"


def test_unknown_keyword(client: Any) -> None:
    with pytest.raises(TypeError, match="beams"):
        client.translate("x", beams=2)


@pytest.mark.parametrize("choice", [True, "mean"])
def test_mean_attention(client: Any, choice: Any) -> None:
    hypothesis = client.translate("one two", return_attention=choice).best
    np.testing.assert_allclose(hypothesis.attention, np.eye(3) * 0.99 + 0.01, rtol=1e-6)
    assert hypothesis.attention.dtype == np.float32
    assert not hypothesis.attention.flags.writeable


def test_attention_of_all_heads(client: Any) -> None:
    attention = client.translate("one two", return_attention="all").best.attention
    assert attention.shape == (NUM_LAYERS, NUM_HEADS, 3, 3)
    assert attention[1, 2, 0, 0] == pytest.approx(121.0)
    assert attention[0, 1, 2, 0] == pytest.approx(10.01)


def test_default_deadline_is_sent(make_client: Any, server: FakeServer) -> None:
    make_client().translate("x")
    make_client(timeout=70).translate("x")
    make_client().translate("x", timeout=300)
    for left, sent in zip(server.translation.times_left, (30, 70, 300), strict=True):
        assert left is not None
        assert sent - 20 < left < sent + 2, "the call took the rest; gRPC rounds up"
    make_client().translate("x", timeout=math.inf)
    assert (server.translation.times_left[3] or math.inf) > 1e6


def test_retries_until_it_works(client: Any, server: FakeServer) -> None:
    server.translation.failures.extend([UNAVAILABLE, OVERLOADED])
    assert client.translate("x").text == "X"
    assert len(server.translation.requests) == 3


def test_call_that_a_stopping_server_ends_is_retried(client: Any, server: FakeServer) -> None:
    server.translation.failures.append(Failure(grpc.StatusCode.CANCELLED, "CANCELLED"))
    assert client.translate("x").text == "X"
    assert len(server.translation.requests) == 2


def test_retries_end(make_client: Any, server: FakeServer) -> None:
    server.translation.failures.extend([UNAVAILABLE] * 10)
    with pytest.raises(ModelNotReady):
        make_client().translate("x")
    assert len(server.translation.requests) == 1 + FAST_RETRIES.retries
    with pytest.raises(ModelNotReady):
        make_client(retries=0).translate("x")
    assert len(server.translation.requests) == 2 + FAST_RETRIES.retries


def test_retry_info_is_honoured(client: Any, server: FakeServer) -> None:
    server.translation.failures.append(Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "OVERLOADED", retry_after_s=0.2))
    start = time.monotonic()
    client.translate("x")
    assert time.monotonic() - start >= 0.2


def test_no_retry_beyond_the_deadline(client: Any, server: FakeServer) -> None:
    server.translation.failures.append(Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "OVERLOADED", retry_after_s=60))
    start = time.monotonic()
    with pytest.raises(Overloaded) as caught:
        client.translate("x", timeout=50)
    assert caught.value.retry_after_s == 60
    assert time.monotonic() - start < 25, "it waited for its deadline"


@pytest.mark.parametrize(
    "failure",
    [
        Failure(grpc.StatusCode.INVALID_ARGUMENT, "bad", "INVALID_REQUEST", "options.beam_size"),
        Failure(grpc.StatusCode.INTERNAL, "broken", "EXECUTION_FAILED"),
        Failure(grpc.StatusCode.CANCELLED, "the server cancelled it", "CANCELLED"),
        Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "message larger than max"),
    ],
    ids=lambda failure: failure.code.name,
)
def test_what_is_not_retried(client: Any, server: FakeServer, failure: Failure) -> None:
    server.translation.failures.append(failure)
    with pytest.raises(Exception, match=failure.message):
        client.translate("x")
    assert len(server.translation.requests) == 1


def test_timeout(client: Any, server: FakeServer) -> None:
    gate = threading.Event()
    server.translation.before = lambda *_: gate.wait(30) and None
    with pytest.raises(DeadlineExceeded):
        client.translate("x", timeout=3.0)  # enough to reach the server
    gate.set()
    assert len(server.translation.requests) == 1


def test_unreachable(make_client: Any, unused_port: int) -> None:
    with pytest.raises(ServerUnreachable, match=f"127.0.0.1:{unused_port}"):
        make_client(f"127.0.0.1:{unused_port}").translate("x")


def test_stream(client: Any) -> None:
    *deltas, last = client.translate_stream("a dog runs")
    assert deltas[0] == TranslationDelta("RUNS", (Piece("RUNS", 0, 4),))
    assert "".join(delta.text for delta in deltas) == "RUNS DOG A"
    assert isinstance(last, Translation)
    assert last.text == "RUNS DOG A"


def test_stream_is_retried_before_the_first_message(client: Any, server: FakeServer) -> None:
    server.translation.failures.append(UNAVAILABLE)
    assert len(list(client.translate_stream("a dog"))) == 3
    assert len(server.translation.requests) == 2


def test_stream_is_not_retried_after_the_first_message(client: Any, server: FakeServer) -> None:
    server.translation.stream_failure = UNAVAILABLE
    events = client.translate_stream("a dog")
    assert isinstance(next(events), TranslationDelta)
    with pytest.raises(ModelNotReady):
        next(events)
    assert len(server.translation.requests) == 1


def test_closing_a_stream_cancels_it(client: Any, server: FakeServer) -> None:
    server.translation.stream_gate = threading.Event()
    events = client.translate_stream("a dog runs")
    next(events)
    assert not server.translation.was_cancelled.is_set()
    events.close()
    assert server.translation.was_cancelled.wait(25)
    server.translation.stream_gate.set()


def test_stream_options_are_checked_at_once(client: Any) -> None:
    with pytest.raises(InvalidRequest):
        client.translate_stream("x", beam_size=-1)


def test_models(client: Any) -> None:
    (model,) = client.list_models()
    assert (model.id, model.version, model.task, model.is_ready) == ("fake-en-de", "1", Task.TRANSLATION, True)
    assert (model.max_source_tokens, model.max_target_tokens, model.max_beam_size) == (100, 120, 8)
    details = client.get_model("fake-en-de")
    assert details.model == model
    assert details.manifest.vocabulary.target_language == "de"
    with pytest.raises(ModelNotFound) as caught:
        client.get_model("other")
    assert caught.value.field == "model"


def test_models_newer_than_the_client(client: Any, server: FakeServer) -> None:
    server.models.models[0].task = 99
    server.models.models[0].state = 99
    (model,) = client.list_models()
    assert model.task is Task.UNSPECIFIED
    assert not model.is_ready


def test_health(client: Any, make_client: Any, server: FakeServer, unused_port: int) -> None:
    server.set_serving(True)
    assert client.is_healthy()
    assert not client.is_healthy("unknown-model")
    server.set_serving(False, "some-model")
    assert not client.is_healthy("some-model")
    server.set_serving(False)
    assert not client.is_healthy()
    assert not make_client(f"127.0.0.1:{unused_port}").is_healthy()


def test_wait_ready(client: Any, server: FakeServer) -> None:
    server.set_serving(False)
    with pytest.raises(DeadlineExceeded, match=r"not ready within 0\.2 s"):
        client.wait_ready(0.2)
    timer = threading.Timer(0.15, server.set_serving, [True])
    timer.start()
    client.wait_ready(30)
    timer.join()


def test_check_that_a_stopping_server_ends_means_not_healthy(client: Any, server: FakeServer) -> None:
    server.set_serving(True)
    server.health.failures.extend([Failure(grpc.StatusCode.CANCELLED, "CANCELLED")] * 3)
    assert not client.is_healthy()
    client.wait_ready(30)
    assert not server.health.failures


def test_wait_ready_for_a_server_that_comes_later(make_client: Any, unused_port: int) -> None:
    late: list[FakeServer] = []

    def start() -> None:
        late.append(FakeServer(unused_port))
        late[0].set_serving(True)

    timer = threading.Timer(0.3, start)
    timer.start()
    make_client(f"127.0.0.1:{unused_port}").wait_ready(30)
    timer.join()
    wait_until(lambda: bool(late))
    late[0].stop()


AFTER_CLOSE: dict[str, Callable[[Any], Any]] = {
    "translate": lambda client: client.translate("a"),
    "translate_stream": lambda client: list(client.translate_stream("a")),
    "translate_many": lambda client: list(client.translate_many(["a"])),
    "translate_many, errors returned": lambda client: list(client.translate_many(itertools.repeat("a"), on_error="return")),
    "caption": lambda client: client.caption(b"x"),
    "caption_stream": lambda client: list(client.caption_stream(b"x")),
    "caption_many": lambda client: list(client.caption_many([b"x"])),
    "segment": lambda client: client.segment(b"x"),
    "segment_many": lambda client: list(client.segment_many([b"x"])),
    "classify_image": lambda client: client.classify_image(b"x"),
    "classify_video": lambda client: client.classify_video(b"x"),
    "classify_many": lambda client: list(client.classify_many([b"x"])),
    "classify_video_many": lambda client: list(client.classify_video_many([b"x"])),
    "list_models": lambda client: client.list_models(),
    "get_model": lambda client: client.get_model("m"),
    "is_healthy": lambda client: client.is_healthy(),
    "wait_ready": lambda client: client.wait_ready(1),
}


@pytest.mark.parametrize("name", AFTER_CLOSE)
def test_call_after_close_of_either_kind(client: Any, name: str) -> None:
    client.translate("a")
    client.close() if isinstance(client, Client) else client.close_client()
    with pytest.raises(ClientClosed, match="the client is closed"):
        AFTER_CLOSE[name](client)


WEIGHTS = [0.5] * 5_000_000
"""20 MB."""


@pytest.mark.parametrize("timeout", [1e8, 9e9, 1e12, 1e300, math.inf])
def test_long_timeout_does_not_expire_at_once(client: Any, timeout: float) -> None:
    assert client.translate("a dog", timeout=timeout).text == "DOG A"
    assert list(client.translate_stream("a dog", timeout=timeout))


def test_answer_above_the_default_limit_of_grpc_arrives(client: Any, server: FakeServer) -> None:
    server.translation.alter = lambda response: response.hypotheses[0].attention.add(
        num_target=5_000, num_source=1_000, weights=WEIGHTS
    )
    assert client.translate("a dog").text == "DOG A"
