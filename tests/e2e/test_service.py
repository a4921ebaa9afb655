# SPDX-License-Identifier: Apache-2.0
"""The server's behaviour without errors: answers, streams, attention, timings, models, health, metrics."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from attnserve.v1 import decoding_pb2, model_pb2, model_pb2_grpc, translation_pb2, translation_pb2_grpc
from attnserve.v1.decoding_pb2 import DecodeOptions
from attnserve_server.machine import summary, usable_cpus, usable_memory
from tests.e2e.captioning import caption
from tests.e2e.serving import (
    LONG_TEXT,
    SENTENCES,
    STREAM,
    Server,
    ask,
    default_model_alone,
    details,
    eventually,
    serve,
    start_stream,
    start_unary,
    streamed,
    texts,
    wait_for_arrival,
)
from tests.stopping import stopped

TEXTS = [*SENTENCES[:12], "Ein  Hündchen 🐕\u200d🦺 – naïve café,\ttabs\nand lines.", "日本語 text", "a", LONG_TEXT]
METRICS = {
    "requests_total": {"model", "method", "code"},
    "request_duration_seconds_bucket": {"model", "version", "method", "le"},
    "queue_duration_seconds_bucket": {"model", "version", "le"},
    "encode_duration_seconds_bucket": {"model", "version", "le"},
    "decode_step_duration_seconds_bucket": {"model", "version", "le"},
    "time_to_first_token_seconds_bucket": {"model", "version", "le"},
    "inter_token_latency_seconds_bucket": {"model", "version", "le"},
    "batch_rows_bucket": {"model", "version", "le"},
    "slots": {"model", "version", "state"},
    "queue_length": {"model", "version"},
    "engine_busy_ratio": {"model", "version"},
    "engine_busy_seconds_total": {"model", "version"},
    "source_tokens_total": {"model", "version"},
    "generated_tokens_total": {"model", "version"},
    "requests_rejected_total": {"model", "version", "reason"},
    "requests_cancelled_total": {"model", "version", "reason"},
    "cold_shapes_total": {"model", "version"},
    "model_ready": {"model", "version"},
    "model_load_duration_seconds_bucket": {"model", "version", "le"},
    "build_info": {"version", "onnxruntime", "python"},
}


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves only the default model, and sends each piece of a stream in its own message."""
    with serve(tmp_path_factory.mktemp("translator"), "--workers", "1", "--stream-interval-seconds", "0") as running:
        yield running


def test_a_greedy_stream_comes_piece_by_piece(translator: Server) -> None:
    with translator.channel() as channel:
        sizes = [len(delta.pieces) for text in SENTENCES[:20] for delta in streamed(channel, text).deltas]
        assert statistics.median(sizes) <= 2
        assert len(streamed(channel, LONG_TEXT).deltas) > 20


def test_a_beam_is_streamed_before_it_is_finished(translator: Server) -> None:
    options = DecodeOptions(beam_size=4, num_hypotheses=4)
    with translator.channel() as channel:
        nums = [len(streamed(channel, text, options).deltas) for text in SENTENCES[:20]]
    assert sum(number > 1 for number in nums) >= 10, "what all beams agree on comes before the rest"


def test_a_server_without_captions_says_so(translator: Server) -> None:
    with translator.channel() as channel, pytest.raises(grpc.RpcError) as raised:
        caption(channel)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert details(raised.value).fields == ("model",)
    assert raised.value.details() == "no model for caption is served"


def test_nothing_is_kept_by_default(server: Server, channel: grpc.Channel) -> None:
    ask(channel, SENTENCES[0])
    steps = server.scrape().total("attnserve_batch_rows_count")
    ask(channel, SENTENCES[0])
    samples = server.scrape()
    assert samples.total("attnserve_batch_rows_count") > steps
    assert samples.total("attnserve_cache_requests_total") == samples.total("attnserve_cache_bytes") == 0


@pytest.mark.parametrize("text", TEXTS)
def test_unary_equals_stream(channel: grpc.Channel, text: str) -> None:
    for options in (DecodeOptions(), DecodeOptions(beam_size=4, num_hypotheses=4)):
        unary = ask(channel, text, options)
        stream = streamed(channel, text, options)
        assert stream.result.hypotheses == unary.hypotheses
        assert stream.result.source_pieces == unary.source_pieces


@pytest.mark.parametrize("text", SENTENCES[:6])
def test_n_best_is_sorted(channel: grpc.Channel, text: str) -> None:
    for penalty in (0.0, 0.6, 1.0):
        answer = ask(channel, text, DecodeOptions(beam_size=5, num_hypotheses=5, length_penalty=penalty))
        scores = [hypothesis.score for hypothesis in answer.hypotheses]
        assert len(scores) == 5
        assert scores == sorted(scores, reverse=True)
        assert all(score < 0 for score in scores)
        kept = [tuple((piece.text, piece.begin) for piece in hypothesis.pieces) for hypothesis in answer.hypotheses]
        assert len(set(kept)) == 5
        is_sum = penalty == 0
        expected = decoding_pb2.SCORE_NORMALIZATION_SUM if is_sum else decoding_pb2.SCORE_NORMALIZATION_LENGTH
        assert {hypothesis.normalization for hypothesis in answer.hypotheses} == {expected}


def test_one_beam_is_a_prefix_of_the_n_best(channel: grpc.Channel) -> None:
    whole = ask(channel, SENTENCES[1], DecodeOptions(beam_size=5, num_hypotheses=5))
    first = ask(channel, SENTENCES[1], DecodeOptions(beam_size=5))
    assert texts(first) == texts(whole)[:1]


def test_max_tokens(channel: grpc.Channel) -> None:
    whole = ask(channel, SENTENCES[0]).hypotheses[0]
    assert whole.finish_reason == decoding_pb2.FINISH_REASON_STOP
    cut = ask(channel, SENTENCES[0], DecodeOptions(max_tokens=3)).hypotheses[0]
    assert cut.finish_reason == decoding_pb2.FINISH_REASON_LENGTH
    assert list(cut.pieces) == list(whole.pieces)[:3]
    assert len(ask(channel, LONG_TEXT).hypotheses[0].pieces) == 128


def matrix(attention: decoding_pb2.Attention) -> np.ndarray:
    return np.asarray(attention.weights, dtype=np.float32).reshape(attention.num_target, attention.num_source)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_attention(channel: grpc.Channel, beam_size: int) -> None:
    manifest = model_pb2_grpc.ModelServiceStub(channel).GetModel(model_pb2.GetModelRequest(model="transformer-en-de")).manifest
    neighbours = [start_unary(channel, text) for text in SENTENCES[20:26]]
    options = {"beam_size": beam_size, "num_hypotheses": beam_size}
    for text in [*SENTENCES[:3], LONG_TEXT]:
        mean = ask(channel, text, DecodeOptions(**options, return_attention=decoding_pb2.ATTENTION_DETAIL_MEAN))
        every = ask(channel, text, DecodeOptions(**options, return_attention=decoding_pb2.ATTENTION_DETAIL_ALL))
        none = ask(channel, text, DecodeOptions(**options))
        assert texts(mean) == texts(every) == texts(none)
        for one, all_of_them, without in zip(mean.hypotheses, every.hypotheses, none.hypotheses, strict=True):
            assert not without.attention
            assert len(one.attention) == 1
            assert not one.attention[0].HasField("layer")
            layers, heads = manifest.attention.num_layers, manifest.attention.num_heads
            grid = [(attention.layer, attention.head) for attention in all_of_them.attention]
            assert grid == list(itertools.product(range(layers), range(heads)))
            for attention in [*one.attention, *all_of_them.attention]:
                assert (attention.num_target, attention.num_source) == (len(one.pieces), len(mean.source_pieces))
                weights = matrix(attention)
                assert weights.min() >= 0
                np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-3)
            chosen = itertools.product(
                manifest.attention.mean_layers or range(layers), manifest.attention.mean_heads or range(heads)
            )
            of_chosen = [matrix(all_of_them.attention[layer * heads + head]) for layer, head in chosen]
            np.testing.assert_allclose(matrix(one.attention[0]), np.mean(of_chosen, axis=0), atol=1e-3)
    for text, neighbour in zip(SENTENCES[20:26], neighbours, strict=True):
        assert texts(neighbour.result()) == texts(ask(channel, text))


@pytest.mark.parametrize("text", TEXTS)
def test_spans_index_into_the_text(channel: grpc.Channel, text: str) -> None:
    answer = ask(channel, text, DecodeOptions(beam_size=2, num_hypotheses=2))
    for whole, pieces in [(text, answer.source_pieces), *((h.text, h.pieces) for h in answer.hypotheses)]:
        assert all(0 <= piece.begin <= piece.end <= len(whole) for piece in pieces)
        assert [piece.text for piece in pieces] == [whole[piece.begin : piece.end] for piece in pieces]
        assert all(before.end <= after.begin for before, after in itertools.pairwise(pieces))
    assert answer.source_pieces[-1].begin == answer.source_pieces[-1].end == len(text)
    for hypothesis in answer.hypotheses:
        if hypothesis.finish_reason == decoding_pb2.FINISH_REASON_STOP:
            assert hypothesis.pieces[-1].begin == hypothesis.pieces[-1].end == len(hypothesis.text)
        assert "".join(piece.text for piece in hypothesis.pieces).replace(" ", "") == hypothesis.text.replace(" ", "")
        assert "⁇" not in hypothesis.text


def test_timings(channel: grpc.Channel) -> None:
    for text in SENTENCES[:10]:
        began = time.monotonic()
        answer = ask(channel, text)
        seen = time.monotonic() - began
        times = answer.timings
        assert min(times.queue_seconds, times.encode_seconds, times.decode_seconds, times.total_seconds) >= 0
        assert times.encode_seconds > 0
        assert times.decode_seconds > 0
        assert times.queue_seconds + times.encode_seconds + times.decode_seconds <= times.total_seconds + 1e-6
        assert times.total_seconds <= seen


def test_request_id_is_echoed(channel: grpc.Channel) -> None:
    stub = translation_pb2_grpc.TranslationServiceStub(channel)

    def echoed(text: str, *metadata: tuple[str, str]) -> str:
        call = stub.Translate.future(translation_pb2.TranslateRequest(text=text), metadata=metadata, timeout=60)
        call.exception()
        return dict(call.trailing_metadata())["x-request-id"]

    assert echoed(SENTENCES[0], ("x-request-id", "abc-1")) == "abc-1"
    assert echoed("", ("x-request-id", "abc-2")) == "abc-2"
    made = {echoed(SENTENCES[0]), echoed(SENTENCES[0]), echoed("")}
    assert len(made) == 3
    assert all(made)
    assert echoed(SENTENCES[0], ("x-request-id", "x" * 1000)) != "x" * 1000
    request = translation_pb2.TranslateStreamRequest(text="a")
    stream = stub.TranslateStream(request, metadata=[("x-request-id", "abc-3")], timeout=60)
    list(stream)
    assert dict(stream.trailing_metadata())["x-request-id"] == "abc-3"


def test_models(channel: grpc.Channel) -> None:
    stub = model_pb2_grpc.ModelServiceStub(channel)
    models = stub.ListModels(model_pb2.ListModelsRequest(), timeout=20).models
    assert [(model.id, model.version) for model in models] == sorted((model.id, model.version) for model in models)
    for model in models:
        answer = stub.GetModel(model_pb2.GetModelRequest(model=model.id, version=model.version), timeout=20)
        assert answer.model == model
        assert model.state == model_pb2.MODEL_STATE_READY
        assert answer.manifest.model_id == model.id
        assert answer.manifest.limits.max_source_tokens == model.max_source_tokens
        assert json_format.MessageToJson(answer.manifest)
    with pytest.raises(grpc.RpcError) as raised:
        stub.GetModel(model_pb2.GetModelRequest(model="nobody"), timeout=20)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert details(raised.value).fields == ("model",)


def test_health(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "transformer-en-de"):
        request = health_pb2.HealthCheckRequest(service=service)
        assert stub.Check(request, timeout=20).status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(request, timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    nobody = health_pb2.HealthCheckRequest(service="nobody")
    with pytest.raises(grpc.RpcError) as raised:
        stub.Check(nobody, timeout=20)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(nobody, timeout=20)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_reflection(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="attnserve.v1.TranslationService"),
    ]
    listed, file = list(stub.ServerReflectionInfo(iter(requests), timeout=20))
    names = {service.name for service in listed.list_services_response.service}
    assert {"attnserve.v1.TranslationService", "attnserve.v1.ModelService", "grpc.health.v1.Health"} <= names
    assert file.file_descriptor_response.file_descriptor_proto


def test_http(server: Server) -> None:
    status, body = server.http("/healthz")
    assert (status, body.strip()) == (200, "ok")
    assert server.http("/metrics")[0] == 200
    assert server.http("/nothing")[0] == 404


def test_an_http_port_that_is_taken_ends_the_start(server: Server, tmp_path: Path) -> None:
    models, port = str(default_model_alone(tmp_path)), str(server.http_port)
    command = [sys.executable, "-m", "attnserve_server", "--models", models, "--grpc-port", "0", "--http-port", port]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: HTTP cannot listen on 127.0.0.1:{port}: Address already in use"


def test_metrics(translator: Server) -> None:
    with translator.channel() as channel:
        check_metrics(translator, channel)


def check_metrics(server: Server, channel: grpc.Channel) -> None:
    before = server.scrape()
    answers = [ask(channel, text, kind=STREAM) for text in SENTENCES[:3]]
    with pytest.raises(grpc.RpcError):
        ask(channel, "")
    with stopped(*server.workers.values()):  # so that it is not answered before it is cancelled
        cancelled = start_stream(channel, LONG_TEXT)
        wait_for_arrival(channel)
        cancelled.cancel()
        wait_for_arrival(channel)
    eventually(lambda: server.scrape().total("attnserve_requests_cancelled_total", reason="client") > 0, "the cancellation")
    after = server.scrape()

    def grown(name: str, **labels: str) -> float:
        return after.total(f"attnserve_{name}", **labels) - before.total(f"attnserve_{name}", **labels)

    for name, labels in METRICS.items():
        assert f"attnserve_{name}" in after.names()
        assert after.labels(f"attnserve_{name}") >= labels
    assert "# TYPE attnserve_device_memory_bytes gauge" in server.http("/metrics")[1]
    assert grown("requests_total", method="TranslateStream", code="OK") == 3
    assert grown("requests_total", method="Translate", code="INVALID_ARGUMENT") == 1
    assert grown("requests_rejected_total", reason="invalid_request") == 1
    assert grown("source_tokens_total") == sum(len(answer.source_pieces) for answer in answers)
    generated = sum(len(answer.hypotheses[0].pieces) for answer in answers)
    assert grown("generated_tokens_total") == generated
    assert grown("inter_token_latency_seconds_count") == generated - 3
    assert grown("time_to_first_token_seconds_count") == grown("queue_duration_seconds_count") == 3
    assert after.total("attnserve_model_ready") == 1
    assert after.total("attnserve_slots") == 32
    assert not {label for sample in after.samples for label in sample.labels} & {"request_id", "text"}


@pytest.mark.load
def test_full_queue_refuses_at_once(tmp_path: Path) -> None:
    flags = ("--workers", "1", "--slots", "2", "--queue-limit", "4", "--max-beam-size", "2")
    with serve(tmp_path, *flags) as server, server.channel() as channel:
        expected = texts(ask(channel, LONG_TEXT))
        with stopped(*server.workers.values()):  # what is refused does not wait for what is answered
            futures = [start_unary(channel, LONG_TEXT) for _ in range(30)]
            eventually(lambda: sum(future.done() for future in futures) >= 22, "the refusals")
        errors = [future.exception(timeout=60) for future in futures]
        answered = [future for future, error in zip(futures, errors, strict=True) if error is None]
        refused = [future for future, error in zip(futures, errors, strict=True) if error is not None]
        assert all(texts(future.result()) == expected for future in answered)
        assert len(answered) == 8, "two in slots, two more at the worker, four in the queue"
        for future in refused:
            assert future.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            found = details(future.exception())
            assert found.reason == "OVERLOADED"
            assert found.retry_s is not None
            assert 0 < found.retry_s <= 10
        assert server.scrape().total("attnserve_requests_rejected_total", reason="overloaded") == len(refused)
        assert texts(ask(channel, LONG_TEXT)) == expected
        server.assert_unharmed()


def test_line_of_the_start_names_what_limits_the_machine(server: Server) -> None:
    line = f"1 worker(s) on cpu; {summary(usable_cpus(), usable_memory())}"
    eventually(lambda: line in server.log.read_text(encoding="utf-8"), f"{line!r} in the log, which a thread writes")
