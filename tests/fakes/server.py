# SPDX-License-Identifier: Apache-2.0
"""A small gRPC server with the contract's services, whose answers and failures a test sets."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from attnserve.v1 import (
    caption_pb2,
    caption_pb2_grpc,
    classification_pb2_grpc,
    decoding_pb2,
    generation_pb2_grpc,
    manifest_pb2,
    model_pb2,
    model_pb2_grpc,
    segmentation_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)
from tests.fakes.single_pass import FakeClassification, FakeGeneration, FakeSegmentation, describe_passes

NUM_LAYERS, NUM_HEADS = 2, 3


@dataclass(frozen=True)
class Failure:
    """A status with ``google.rpc`` details, as the server sends it."""

    code: grpc.StatusCode
    message: str = "no"
    reason: str = ""
    field: str = ""
    retry_after_s: float | None = None

    def abort(self, context: Any) -> None:
        details: list[Any] = []
        if self.reason:
            details.append(error_details_pb2.ErrorInfo(reason=self.reason, domain="attnserve"))
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(field=self.field, description=self.message)
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_after_s is not None:
            retry_info = error_details_pb2.RetryInfo()
            retry_info.retry_delay.FromNanoseconds(int(self.retry_after_s * 1e9))
            details.append(retry_info)
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        metadata = [("x-request-id", "r-1")]
        if details:
            metadata.append(("grpc-status-details-bin", status.SerializeToString()))
        context.set_trailing_metadata(metadata)
        context.abort(self.code, self.message)


UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE, "not ready", "MODEL_NOT_READY")
OVERLOADED = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "OVERLOADED", retry_after_s=0.02)


def pieces_of(text: str) -> list[decoding_pb2.Piece]:
    """One piece for each word, white space before it included, and the end symbol."""
    pieces, at = [], 0
    for word in text.split():
        end = text.index(word, at) + len(word)
        pieces.append(decoding_pb2.Piece(text=text[at:end], begin=at, end=end))
        at = end
    return [*pieces, decoding_pb2.Piece(text="", begin=len(text), end=len(text))]


def attention_of(num_target: int, num_source: int, **place: int) -> decoding_pb2.Attention:
    """Weights that identify their row, column and map, roughly diagonal."""
    base = 100.0 * place.get("layer", 0) + 10.0 * place.get("head", 0)
    weights = [base + (1.0 if row == column else 0.01) for row in range(num_target) for column in range(num_source)]
    return decoding_pb2.Attention(num_target=num_target, num_source=num_source, weights=weights, **place)


def answer(request: Any) -> translation_pb2.TranslateResponse:
    """Returns the text backwards in capitals; n-best answers differ by a suffix."""
    source_pieces = pieces_of(request.text)
    response = translation_pb2.TranslateResponse(source_pieces=source_pieces, model=request.model or "fake-en-de", version="1")
    response.timings.total_seconds = 0.5
    for rank in range(max(1, request.options.num_hypotheses)):
        text = " ".join(reversed(request.text.upper().split())) + ("!" * rank)
        hypothesis = response.hypotheses.add(text=text, pieces=pieces_of(text), score=-0.5 - rank)
        hypothesis.normalization = decoding_pb2.SCORE_NORMALIZATION_LENGTH
        hypothesis.finish_reason = decoding_pb2.FINISH_REASON_STOP
        shape = len(hypothesis.pieces), len(source_pieces)
        if request.options.return_attention == decoding_pb2.ATTENTION_DETAIL_MEAN:
            hypothesis.attention.append(attention_of(*shape))
        if request.options.return_attention == decoding_pb2.ATTENTION_DETAIL_ALL:
            places = [(layer, head) for layer in range(NUM_LAYERS) for head in range(NUM_HEADS)]
            hypothesis.attention.extend(attention_of(*shape, layer=layer, head=head) for layer, head in reversed(places))
    return response


@dataclass
class FakeTranslation(translation_pb2_grpc.TranslationServiceServicer):
    """Answers with ``answer``, after the scripted ``failures`` and then ``before``, which runs for every call."""

    failures: deque[Failure] = field(default_factory=deque)
    before: Callable[[Any, Any], None] = lambda request, context: None
    alter: Callable[[Any], None] = lambda response: None
    stream_failure: Failure | None = None
    stream_gate: threading.Event | None = None
    requests: list[Any] = field(default_factory=list)
    times_left: list[float | None] = field(default_factory=list)
    clients: list[str | None] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    traces: list[str | None] = field(default_factory=list)
    was_cancelled: threading.Event = field(default_factory=threading.Event)
    num_running: int = 0
    max_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def Translate(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        try:
            self.before(request, context)
            response = answer(request)
            self.alter(response)
            return response
        finally:
            with self.lock:
                self.num_running -= 1

    def TranslateStream(self, request: Any, context: Any) -> Iterator[Any]:
        self._enter(request, context)
        self.num_running -= 1
        context.add_callback(self.was_cancelled.set)
        result, sent = answer(request), ""
        for piece in result.hypotheses[0].pieces[:-1]:
            sent += piece.text
            yield translation_pb2.TranslateStreamResponse(delta=translation_pb2.TranslationDelta(text=piece.text, pieces=[piece]))
            if self.stream_gate is not None:
                self.stream_gate.wait(30)
            if self.stream_failure is not None:
                self.stream_failure.abort(context)
        yield translation_pb2.TranslateStreamResponse(result=result)

    def _enter(self, request: Any, context: Any) -> None:
        with self.lock:
            self.requests.append(request)
            self.times_left.append(context.time_remaining())
            metadata = dict(context.invocation_metadata())
            self.clients.append(metadata.get("x-client-id"))
            self.tokens.append(metadata.get("authorization"))
            self.traces.append(metadata.get("traceparent"))
            failure = self.failures.popleft() if self.failures else None
            if failure is None:
                self.num_running += 1
                self.max_running = max(self.max_running, self.num_running)
        if failure is not None:
            failure.abort(context)


def caption_answer(request: Any) -> caption_pb2.CaptionResponse:
    """Returns the number of bytes of the image; refuses a file that begins with "bad". The map of word i has its weight on cell i."""
    response = caption_pb2.CaptionResponse(model=request.model or "fake-captions", version="1")
    response.grid.rows, response.grid.columns, response.grid.image_width, response.grid.image_height = 2, 3, 60, 40
    for rank in range(max(1, request.options.num_hypotheses)):
        text = f"a picture of {len(request.image)} bytes" + " indeed" * rank
        hypothesis = response.hypotheses.add(text=text, pieces=pieces_of(text), score=-0.5 - rank)
        hypothesis.finish_reason = decoding_pb2.FINISH_REASON_STOP
        if request.options.return_attention == decoding_pb2.ATTENTION_DETAIL_MEAN:
            hypothesis.attention.append(attention_of(len(hypothesis.pieces), 6))
    return response


@dataclass
class FakeCaptions(caption_pb2_grpc.CaptionServiceServicer):
    """Answers with ``caption_answer``, altered by ``alter``."""

    alter: Callable[[Any], None] = lambda response: None
    requests: list[Any] = field(default_factory=list)

    def Caption(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        if request.image.startswith(b"bad"):
            Failure(grpc.StatusCode.INVALID_ARGUMENT, "image is bad", "INVALID_REQUEST", "image").abort(context)
        response = caption_answer(request)
        self.alter(response)
        return response

    def CaptionStream(self, request: Any, context: Any) -> Iterator[Any]:
        result = self.Caption(request, context)
        for piece in result.hypotheses[0].pieces[:-1]:
            yield caption_pb2.CaptionStreamResponse(delta=caption_pb2.CaptionDelta(text=piece.text, pieces=[piece]))
        yield caption_pb2.CaptionStreamResponse(result=result)


@dataclass
class FakeModels(model_pb2_grpc.ModelServiceServicer):
    """Lists ``models``; their languages are English to German unless ``languages`` has others."""

    models: list[Any] = field(default_factory=lambda: [model_of("fake-en-de")])
    languages: dict[str, tuple[str, str]] = field(default_factory=dict)
    attentive: set[str] = field(default_factory=lambda: {"fake-en-de", "other-en-de"})

    def ListModels(self, request: Any, context: Any) -> Any:
        return model_pb2.ListModelsResponse(models=self.models)

    def GetModel(self, request: Any, context: Any) -> Any:
        for model in self.models:
            if request.model in (model.id, ""):
                source, target = self.languages.get(model.id, ("en", "de"))
                vocabulary = manifest_pb2.Vocabulary(source_language=source, target_language=target)
                attention = manifest_pb2.AttentionOutput(output="attention") if model.id in self.attentive else None
                steps = [manifest_pb2.StepGraph(gives_attention=attention is not None)]
                variants = [manifest_pb2.Variant(name="fp32", steps=steps), manifest_pb2.Variant(name="fp16")]
                manifest = manifest_pb2.Manifest(model_id=model.id, vocabulary=vocabulary, attention=attention, variants=variants)
                describe_passes(model, manifest)
                return model_pb2.GetModelResponse(model=model, manifest=manifest)
        Failure(grpc.StatusCode.NOT_FOUND, f"no model {request.model}", "MODEL_NOT_FOUND", "model").abort(context)
        raise AssertionError


def model_of(model_id: str, task: Any = manifest_pb2.TASK_TRANSLATION) -> model_pb2.Model:
    """A ready model."""
    return model_pb2.Model(
        id=model_id,
        version="1",
        task=task,
        architecture="transformer",
        variant="fp32",
        state=model_pb2.MODEL_STATE_READY,
        max_source_tokens=100,
        max_target_tokens=120,
        max_beam_size=8,
    )


class FakeHealth(health.HealthServicer):
    """Answers with what was set, after the scripted ``failures``."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: deque[Failure] = deque()

    def Check(self, request: Any, context: Any) -> Any:
        if self.failures:
            self.failures.popleft().abort(context)
        return super().Check(request, context)


class FakeServer:
    """The services on a free port of 127.0.0.1, until ``stop``."""

    def __init__(self, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self.translation, self.models, self.health = FakeTranslation(), FakeModels(), FakeHealth()
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=[("grpc.so_reuseport", 0)])
        translation_pb2_grpc.add_TranslationServiceServicer_to_server(self.translation, self._server)
        self.captions = FakeCaptions()
        caption_pb2_grpc.add_CaptionServiceServicer_to_server(self.captions, self._server)
        self.segmentation, self.classification = FakeSegmentation(), FakeClassification()
        segmentation_pb2_grpc.add_SegmentationServiceServicer_to_server(self.segmentation, self._server)
        classification_pb2_grpc.add_ClassificationServiceServicer_to_server(self.classification, self._server)
        self.generation = FakeGeneration()
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(self.generation, self._server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(self.models, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        address = f"127.0.0.1:{port}"
        is_plain = credentials is None
        self.port = self._server.add_insecure_port(address) if is_plain else self._server.add_secure_port(address, credentials)
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def set_serving(self, is_serving: bool, service: str = "") -> None:
        status = health_pb2.HealthCheckResponse.SERVING if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self.health.set(service, status)

    def stop(self) -> None:
        self._server.stop(None).wait()


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Waits for a condition that another thread makes true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.005)
