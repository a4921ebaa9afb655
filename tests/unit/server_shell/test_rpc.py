# SPDX-License-Identifier: Apache-2.0
"""A real gRPC server and a real channel; only the front is fake."""

from __future__ import annotations

import asyncio
import logging
import re
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from attnserve.v1 import decoding_pb2, model_pb2, translation_pb2
from attnserve_server import errors
from attnserve_server.config_listen import GrpcConfig
from attnserve_server.dataplane.plane import DataPlane
from attnserve_server.request import Terms
from attnserve_server.tasks.images import ImageLimits
from attnserve_server.tasks.interface import Limits
from attnserve_server.transport.rpc.arrivals import Arrivals
from attnserve_server.transport.rpc.calls import Setup, service_handler
from attnserve_server.transport.rpc.server import MODEL, TRANSLATION, GrpcServer
from attnserve_server.transport.rpc.unread import Unread
from attnserve_server.transport.rpc.v1.translation import TranslationServicer
from tests.fakes.dataplane import END, Front, Recorder, letters_model
from tests.unit.server_shell.conftest import Shell, ShellFactory, until

TRANSLATE = "/attnserve.v1.TranslationService/Translate"
Request = translation_pb2.TranslateRequest
StreamRequest = translation_pb2.TranslateStreamRequest


def beam(size: int) -> decoding_pb2.DecodeOptions:
    return decoding_pb2.DecodeOptions(beam_size=size)


async def failure(awaitable: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await awaitable
    return raised.value


def detail(error: grpc.aio.AioRpcError, message: Any) -> Any:
    for packed in rpc_status.from_call(error).details:
        if packed.Unpack(message):
            return message
    raise AssertionError(f"no {message.DESCRIPTOR.name} in {error}")


def reason(error: grpc.aio.AioRpcError) -> str:
    return str(detail(error, error_details_pb2.ErrorInfo()).reason)


def trailer(error: grpc.aio.AioRpcError, key: str = "x-request-id") -> Any:
    return dict(error.trailing_metadata())[key]


# --- Answers ---


async def test_translate(shell: Shell) -> None:
    response = await shell.translation.Translate(Request(text="zwei", options=beam(2)))
    assert response.hypotheses[0].text == "ZWEI"
    (ticket,) = shell.front.tickets
    assert ticket.tokens == [*map(ord, "zwei"), END]
    assert ticket.terms == Terms(client=ticket.terms.client, part=ticket.terms.part)
    assert ticket.options.beam_size == 2
    assert shell.recorder.counted == [("done", "upper-en-de", "1", "Translate", "OK")]
    assert not ticket.cancelled


async def test_stream_sends_deltas_then_the_result(shell: Shell) -> None:
    events = [event async for event in shell.translation.TranslateStream(StreamRequest(text="ja"))]
    assert [event.WhichOneof("event") for event in events] == ["delta", "delta", "delta", "result"]
    assert "".join(event.delta.text for event in events) == "JA" == events[-1].result.hypotheses[0].text
    pieces = [piece for event in events[:-1] for piece in event.delta.pieces]
    assert pieces == list(events[-1].result.hypotheses[0].pieces)
    assert [piece.begin for piece in pieces] == [0, 1, 2]
    assert shell.front.tickets[0].terms.is_streamed
    assert shell.recorder.counted == [("done", "upper-en-de", "1", "TranslateStream", "OK")]


async def test_a_beam_is_streamed_too(shell: Shell) -> None:
    events = [event async for event in shell.translation.TranslateStream(StreamRequest(text="ja", options=beam(2)))]
    assert "".join(event.delta.text for event in events) == "JA" == events[-1].result.hypotheses[0].text
    assert shell.front.tickets[0].terms.is_streamed


async def test_unknown_symbols_are_copied(shell: Shell) -> None:
    events = [event async for event in shell.translation.TranslateStream(StreamRequest(text="a?b?"))]
    result = events[-1].result.hypotheses[0]
    assert "".join(event.delta.text for event in events) == "A?B?" == result.text
    assert [piece for event in events[:-1] for piece in event.delta.pieces] == list(result.pieces)
    assert [piece.copied_from if piece.HasField("copied_from") else None for piece in result.pieces] == [None, 1, None, 3, None]


async def test_priority(shell: Shell) -> None:
    await shell.translation.Translate(Request(text="a", priority=-2))
    assert shell.front.tickets[0].terms.priority == -2
    for method, kind in ((shell.translation.Translate, Request), (shell.translation.TranslateStream, StreamRequest)):
        call = method(kind(text="a", priority=3))
        error = await failure(call if kind is Request else call.read())
        assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "priority"


async def test_client_is_the_host_and_its_own_id_or_connection_divides_it(shell: Shell) -> None:
    for metadata in ((), (("x-client-id", "me-1"),), (("x-client-id", "with space"),), (("x-client-id", "x" * 129),)):
        await shell.translation.Translate(Request(text="a"), metadata=metadata)
    connection, named, *others = [ticket.terms.part for ticket in shell.front.tickets]
    assert re.fullmatch(r"ipv4:127\.0\.0\.1:\d+", connection)
    assert named == "me-1"
    assert set(others) == {connection}
    own_connection = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{shell.port}", options=own_connection) as channel:
        await channel.unary_unary(TRANSLATE)(Request(text="a").SerializeToString())
    assert shell.front.tickets[-1].terms.part not in ("", connection)
    assert {ticket.terms.client for ticket in shell.front.tickets} == {"ipv4:127.0.0.1"}


def prefixed(prefix: str, **options: Any) -> decoding_pb2.DecodeOptions:
    return decoding_pb2.DecodeOptions(prefix=prefix, **options)


async def test_prefix(shell: Shell) -> None:
    await shell.translation.Translate(Request(text="abc", options=prefixed("AB")))
    assert shell.front.tickets[0].options.prefix == (ord("A"), ord("B"))
    for bad in (prefixed(" "), prefixed("Aα"), prefixed("AB", max_tokens=2), prefixed("\u200b"), prefixed("x" * 64)):
        error = await failure(shell.translation.Translate(Request(text="abc", options=bad)))
        assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "options.prefix"


async def test_prefix_counts_as_text(make_shell: ShellFactory) -> None:
    shell = await make_shell(Front(letters_model(max_target_tokens=2000)), max_text_chars=1000)
    await shell.translation.Translate(Request(text="x" * 400, options=prefixed("y" * 600)))
    assert shell.front.models()[0].task.threads[0].startswith("tokenizer")
    error = await failure(shell.translation.Translate(Request(text="x" * 400, options=prefixed("y" * 601))))
    assert error.details() == "options.prefix must have at most 600 characters beside this text; it has 601"


async def test_long_texts_are_tokenized_in_a_thread(shell: Shell) -> None:
    for text in ("x" * 512, "x" * 513):
        await shell.translation.Translate(Request(text=text))
    inline, threaded = shell.front.models()[0].task.threads
    assert inline == "MainThread"
    assert threaded.startswith("tokenizer")


async def test_many_at_once(shell: Shell) -> None:
    texts = [f"text {index}" for index in range(200)]
    responses = await asyncio.gather(*(shell.translation.Translate(Request(text=text)) for text in texts))
    assert [response.hypotheses[0].text for response in responses] == [text.upper() for text in texts]


async def test_models_are_listed_in_order(make_shell: ShellFactory) -> None:
    shell = await make_shell(
        Front(letters_model("b"), letters_model("a", "10"), letters_model("a", "9"), letters_model("a", "2", is_ready=False))
    )
    response = await shell.models.ListModels(model_pb2.ListModelsRequest())
    assert [(model.id, model.version) for model in response.models] == [("a", "2"), ("a", "9"), ("a", "10"), ("b", "1")]
    assert response.models[0].state == model_pb2.MODEL_STATE_LOADING
    assert shell.recorder.counted == [("done", "", "", "ListModels", "OK")]


async def test_get_model(shell: Shell) -> None:
    response = await shell.models.GetModel(model_pb2.GetModelRequest(model="upper-en-de"))
    assert response.manifest == shell.front.models()[0].manifest
    assert response.model.id == "upper-en-de"
    error = await failure(shell.models.GetModel(model_pb2.GetModelRequest(model="lower")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert shell.recorder.counted[1:] == [("rejected", "", "", "model_not_found"), ("done", "", "", "GetModel", "NOT_FOUND")]


# --- Errors ---


async def test_invalid_request(shell: Shell) -> None:
    error = await failure(shell.translation.Translate(Request(text="a", options=beam(0))))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "options.beam_size must be from 1 to 5; it is 0"
    assert reason(error) == "INVALID_REQUEST"
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "options.beam_size"
    assert shell.recorder.counted == [
        ("rejected", "upper-en-de", "1", "invalid_request"),
        ("done", "upper-en-de", "1", "Translate", "INVALID_ARGUMENT"),
    ]


async def test_a_stream_fails_with_details_too(shell: Shell) -> None:
    call = shell.translation.TranslateStream(StreamRequest(text=" "), metadata=(("x-request-id", "my-id"),))
    error = await failure(call.read())
    assert (error.code(), reason(error), trailer(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "my-id")
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "text"


async def test_another_task_is_refused(shell: Shell) -> None:
    shell.front.models()[0].manifest.task = 0
    error = await failure(shell.translation.Translate(Request(text="a")))
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "model"


async def test_overload_says_when_to_try_again(shell: Shell) -> None:
    shell.front.submit_error = errors.Overloaded("full", retry_after_s=0.1)
    error = await failure(shell.translation.Translate(Request(text="a")))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(error, error_details_pb2.RetryInfo()).retry_delay.nanos == 100_000_000
    # The front counts its own refusals.
    assert shell.recorder.counted == [("done", "upper-en-de", "1", "Translate", "RESOURCE_EXHAUSTED")]


async def test_failures_after_the_submission(shell: Shell) -> None:
    shell.front.result_error = errors.WorkerLost("the worker died")
    error = await failure(shell.translation.Translate(Request(text="a")))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
    call = shell.translation.TranslateStream(StreamRequest(text="ja"))
    assert [(await call.read()).delta.text, (await call.read()).delta.text] == ["J", "A"]
    assert reason(await failure(call.read())) == "WORKER_LOST"


async def test_unknown_exceptions_show_nothing_of_the_inside(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    shell.front.models()[0].task.error = RuntimeError("secret: /etc/passwd")
    with caplog.at_level(logging.ERROR):
        error = await failure(shell.translation.Translate(Request(text="a")))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in str(error)
    assert "secret" not in str(rpc_status.from_call(error))
    assert "secret" in caplog.text
    assert shell.recorder.counted == [("done", "upper-en-de", "1", "Translate", "INTERNAL")]


async def test_an_inner_cancellation_still_ends_the_call(shell: Shell) -> None:
    shell.front.result_error = asyncio.CancelledError()
    error = await failure(shell.translation.Translate(Request(text="a"), timeout=20))
    assert (error.code(), reason(error)) == (grpc.StatusCode.CANCELLED, "CANCELLED")


async def test_bytes_that_are_no_request(shell: Shell) -> None:
    translate = shell.channel.unary_unary(TRANSLATE)
    error = await failure(translate(b"\x0a\x02\xff\xfe"))
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "text must be UTF-8")
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "text"
    error = await failure(translate(b"\xff\xff"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert shell.recorder.counted[0] == ("rejected", "", "", "invalid_request")


async def test_messages_over_the_limit(make_shell: ShellFactory) -> None:
    shell = await make_shell(max_message_bytes=1024)
    error = await failure(shell.translation.Translate(Request(text="x" * 2000)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await shell.translation.Translate(Request(text="x" * 900))).hypotheses


async def test_texts_over_the_limit(make_shell: ShellFactory) -> None:
    shell = await make_shell(max_text_chars=3)
    error = await failure(shell.translation.Translate(Request(text="four")))
    assert error.details() == "text must have at most 3 characters; it has 4"


async def test_a_server_that_is_there_already(make_shell: ShellFactory) -> None:
    shell = await make_shell()
    second = GrpcServer(shell.plane, shell.board, GrpcConfig(port=shell.port))
    with pytest.raises(errors.StartupError, match=f"127.0.0.1:{shell.port}"):
        await second.start()


# --- Request ids and logs ---


async def test_request_id_is_sent_back(shell: Shell) -> None:
    call = shell.translation.Translate(Request(text="a"), metadata=(("x-request-id", "abc-123"),))
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "abc-123"
    error = await failure(shell.translation.Translate(Request(), metadata=(("x-request-id", "of-an-error"),)))
    assert trailer(error) == "of-an-error"


@pytest.mark.parametrize("sent", [None, "", "x" * 129, "with space"])
async def test_request_id_is_made_where_there_is_no_sane_one(shell: Shell, sent: str | None) -> None:
    call = shell.translation.Translate(Request(text="a"), metadata=(("x-request-id", sent),) if sent is not None else ())
    await call
    assert re.fullmatch(r"[0-9a-f]{32}", str(dict(await call.trailing_metadata())["x-request-id"]))


async def test_one_line_for_a_request_and_no_text_of_the_user(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "attnserve_server"):
        await shell.translation.Translate(Request(text="secret source"))
    (record,) = caplog.records
    assert re.fullmatch(r"Translate OK - model=upper-en-de/1 [0-9.]+ms", record.getMessage())
    assert record.__dict__["fields"]()["code"] == "OK"
    assert "secret" not in caplog.text.lower()


# --- Deadlines and cancellation ---


async def test_deadline_reaches_the_front(shell: Shell) -> None:
    await shell.translation.Translate(Request(text="a"), timeout=300)
    (ticket,) = shell.front.tickets
    assert ticket.terms.deadline is not None
    assert 270 < ticket.terms.deadline - ticket.received_at < 305


async def test_deadline_that_passes_cancels_the_ticket(shell: Shell) -> None:
    shell.front.hang = True
    error = await failure(shell.translation.Translate(Request(text="a"), timeout=3.0))  # enough to reach the front
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: bool(shell.recorder.counted))
    assert shell.front.tickets[0].cancelled == ["deadline"]
    assert shell.recorder.counted == [("done", "upper-en-de", "1", "Translate", "DEADLINE_EXCEEDED")]


async def test_client_that_leaves_cancels_the_ticket(shell: Shell) -> None:
    shell.front.hang = True
    call = shell.translation.Translate(Request(text="a"))
    task = asyncio.ensure_future(call)
    await asyncio.wait_for(shell.front.submitted.wait(), 30)
    call.cancel()
    ticket = shell.front.tickets[0]
    await asyncio.wait_for(ticket.cancelled_event.wait(), 30)
    assert ticket.cancelled == ["client"]
    await until(lambda: bool(shell.recorder.counted))
    assert shell.recorder.counted == [("done", "upper-en-de", "1", "Translate", "CANCELLED")]
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_client_that_leaves_mid_stream_cancels_the_ticket(shell: Shell) -> None:
    shell.front.hang = True
    call = shell.translation.TranslateStream(StreamRequest(text="ja"))
    assert (await call.read()).delta.text == "J"
    call.cancel()
    ticket = shell.front.tickets[0]
    await asyncio.wait_for(ticket.cancelled_event.wait(), 30)
    assert ticket.cancelled == ["client"]


async def test_client_that_leaves_amid_many_deltas_is_no_error(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    for num_read in range(20):
        call = shell.translation.TranslateStream(StreamRequest(text="x" * 500))
        for _ in range(num_read):
            await call.read()
        call.cancel()
    await until(lambda: len(shell.recorder.counted) >= len(shell.front.tickets) > 0)
    assert {count[-1] for count in shell.recorder.counted} <= {"CANCELLED", "client"}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_connection_that_is_lost_cancels_the_ticket(shell: Shell) -> None:
    shell.front.hang = True
    async with grpc.aio.insecure_channel(f"127.0.0.1:{shell.port}") as channel:
        call = channel.unary_stream("/attnserve.v1.TranslationService/TranslateStream")(
            StreamRequest(text="ja").SerializeToString()
        )
        await call.read()
    await asyncio.wait_for(shell.front.tickets[0].cancelled_event.wait(), 30)


@pytest.mark.every_loop  # the order of two timers decides the reason
async def test_stop_cancels_what_is_not_ready(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    shell.front.hang = True
    task = asyncio.ensure_future(failure(shell.translation.Translate(Request(text="a"))))
    await asyncio.wait_for(shell.front.submitted.wait(), 30)
    shell.front.draining.end()
    with caplog.at_level(logging.ERROR):
        await shell.server.stop(0.05)
    assert (await task).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    await until(lambda: bool(shell.front.tickets[0].cancelled))
    assert shell.front.tickets[0].cancelled == ["shutdown"]
    assert not caplog.records


@pytest.mark.parametrize("is_stopping", [False, True], ids=["drain", "grace of the stop"])
async def test_client_that_leaves_during_a_drain_is_counted_as_such(shell: Shell, is_stopping: bool) -> None:
    shell.front.hang = True
    call = shell.translation.Translate(Request(text="a"))
    task = asyncio.ensure_future(call)
    await asyncio.wait_for(shell.front.submitted.wait(), 5)
    shell.front.draining.end()
    stopping = asyncio.ensure_future(shell.server.stop(5.0)) if is_stopping else None
    await until(lambda: shell.board.is_closed is is_stopping)
    call.cancel()
    await until(lambda: bool(shell.front.tickets[0].cancelled))
    assert shell.front.tickets[0].cancelled == ["client"]
    with pytest.raises(asyncio.CancelledError):
        await task
    if stopping is not None:
        await stopping


async def test_stop_waits_for_what_runs(shell: Shell) -> None:
    shell.front.hang = True
    task = asyncio.ensure_future(_translate(shell))
    await asyncio.wait_for(shell.front.submitted.wait(), 30)
    stopping = asyncio.ensure_future(shell.server.stop(60.0))
    await until(lambda: shell.board.is_closed)  # soon after the stop begins
    assert not stopping.done()
    shell.front.hang = False
    await stopping
    assert (await task).hypotheses[0].text == "A"


async def _translate(shell: Shell) -> Any:
    return await shell.translation.Translate(Request(text="a"))


# --- With a fake context: cases that gRPC does not produce on demand ---


class Aborted(grpc.aio.AbortError):
    pass


class Context:
    """The part of ``grpc.aio.ServicerContext`` that the wrapper uses."""

    def __init__(
        self, remaining_s: float | None = None, write_error: Exception | None = None, abort_error: Exception | None = None
    ) -> None:
        self.remaining_s, self.write_error, self.abort_error = remaining_s, write_error, abort_error
        self.code: grpc.StatusCode | None = None
        self.trailers: tuple[tuple[str, Any], ...] = ()

    def time_remaining(self) -> float | None:
        return self.remaining_s

    def peer(self) -> str:
        return "made-up:1"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", "made-up"),)

    def set_trailing_metadata(self, metadata: tuple[tuple[str, Any], ...]) -> None:
        self.trailers = metadata

    async def abort(self, code: grpc.StatusCode, text: str, trailers: tuple[tuple[str, Any], ...]) -> None:
        self.code, self.trailers = code, trailers
        raise self.abort_error or Aborted(text)

    async def read(self) -> bytes:
        return Request(text="a").SerializeToString()

    async def write(self, data: bytes) -> None:
        assert data
        if self.write_error is not None:
            raise self.write_error


def method_of(front: Front, recorder: Recorder, name: str) -> Any:
    service = translation_pb2.DESCRIPTOR.services_by_name["TranslationService"]
    servicer = TranslationServicer(DataPlane(front, recorder, Limits(100, ImageLimits(100, 100))))
    handler: Any = service_handler(service, servicer, recorder, Setup(lambda: False, Unread(GrpcConfig()), Arrivals()))
    return handler.service(SimpleNamespace(method=f"/attnserve.v1.TranslationService/{name}"))


async def test_deadline_that_has_passed_already() -> None:
    front, recorder, context = Front(), Recorder(), Context(remaining_s=0.0)
    with pytest.raises(Aborted):
        await method_of(front, recorder, "Translate").stream_unary(None, context)
    assert context.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert dict(context.trailers)["x-request-id"] == "made-up"
    assert not front.tickets
    assert recorder.counted == [("rejected", "", "", "deadline_exceeded"), ("done", "", "", "Translate", "DEADLINE_EXCEEDED")]


async def test_message_that_cannot_be_sent_means_that_the_client_left(caplog: pytest.LogCaptureFixture) -> None:
    front, recorder, context = Front(), Recorder(), Context(write_error=RuntimeError("batch failed"))
    with pytest.raises(asyncio.CancelledError):
        await method_of(front, recorder, "TranslateStream").stream_stream(None, context)
    assert front.tickets[0].cancelled == ["client"]
    assert recorder.counted == [("done", "upper-en-de", "1", "TranslateStream", "CANCELLED")]
    assert not caplog.records


async def test_status_that_cannot_be_sent_means_that_the_client_left(caplog: pytest.LogCaptureFixture) -> None:
    front, recorder, context = Front(), Recorder(), Context(remaining_s=0.0, abort_error=RuntimeError("batch failed"))
    with pytest.raises(asyncio.CancelledError):
        await method_of(front, recorder, "Translate").stream_unary(None, context)
    assert context.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not caplog.records


@pytest.mark.parametrize("service", [TRANSLATION, MODEL], ids=lambda service: service.name)
async def test_every_method_of_our_services_is_served(shell: Shell, service: Any) -> None:
    """Sends bytes that are not a request: a served method refuses them, any other answers UNIMPLEMENTED."""
    for method in service.methods:
        path = f"/{service.full_name}/{method.name}"
        call = shell.channel.unary_stream(path)(b"\xff") if method.server_streaming else shell.channel.unary_unary(path)(b"\xff")
        error = await failure(call.read() if method.server_streaming else call)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
