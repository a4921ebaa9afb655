# SPDX-License-Identifier: Apache-2.0
"""What gRPC core would do by itself: calls without a message, idle and old connections, both versions of reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from attnserve.v1 import translation_pb2
from attnserve_server.config_listen import GrpcConfig
from attnserve_server.transport.rpc import arrivals
from attnserve_server.transport.rpc.arguments import channel_arguments
from tests.unit.server_shell.conftest import Shell, ShellFactory, until

SERVICE = "/attnserve.v1.TranslationService/"
METHODS = ["Translate", "TranslateStream"]


async def nothing() -> AsyncIterator[bytes]:
    """The messages of a call that has none."""
    return
    yield b""


async def never(is_over: asyncio.Event) -> AsyncIterator[bytes]:
    """The messages of a call whose first one does not come until the test is over."""
    await is_over.wait()
    return
    yield b""


async def error_of(shell: Shell, method: str, messages: AsyncIterator[bytes]) -> grpc.aio.AioRpcError:
    call = shell.channel.stream_stream(SERVICE + method)(messages)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asyncio.wait_for(anext(aiter(call)), 30)
    return raised.value


@pytest.mark.parametrize("method", METHODS)
async def test_call_without_a_message_is_refused(shell: Shell, method: str) -> None:
    error = await error_of(shell, method, nothing())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "the call has no message; one is needed"
    await until(lambda: [each[-1] for each in shell.recorder.counted if each[0] == "done"] == ["INVALID_ARGUMENT"])


@pytest.mark.parametrize("method", METHODS)
async def test_call_whose_message_does_not_arrive_is_refused(shell: Shell, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MESSAGE_S", 0.2)
    is_over = asyncio.Event()
    assert (await error_of(shell, method, never(is_over))).code() is grpc.StatusCode.INVALID_ARGUMENT
    is_over.set()  # a task that still waited would be reported in the log of a later test


@pytest.mark.parametrize("method", METHODS)
async def test_call_that_is_cancelled_before_its_message_is_no_error(shell: Shell, method: str) -> None:
    cancelled = [shell.channel.stream_stream(SERVICE + method)(never(asyncio.Event())) for _ in range(20)]
    await asyncio.sleep(0.05)
    for call in cancelled:
        call.cancel()
    error = await error_of(shell, method, nothing())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    await until(lambda: [each[-1] for each in shell.recorder.counted if each[0] == "done"] == ["INVALID_ARGUMENT"])


async def test_idle_connection_is_closed_and_opened_again_for_the_next_call(make_shell: ShellFactory) -> None:
    shell = await make_shell(max_idle_seconds=0.2)
    assert (await shell.translation.Translate(translation_pb2.TranslateRequest(text="a"))).hypotheses
    async with asyncio.timeout(20):
        await shell.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)  # in which it was, and may be no longer
    assert (await shell.translation.Translate(translation_pb2.TranslateRequest(text="a"))).hypotheses


def asked(shell: Shell) -> Any:
    return shell.translation.Translate(translation_pb2.TranslateRequest(text="a"))


async def test_connection_over_its_age_is_closed_and_no_call_fails(make_shell: ShellFactory) -> None:
    shell = await make_shell(max_connection_age_seconds=0.2)
    shell.front.max_tickets = 1_000_000
    async with asyncio.timeout(20):
        for _ in range(3):
            assert (await asked(shell)).hypotheses
            closed = asyncio.create_task(shell.channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
            while not closed.done():
                assert (await asked(shell)).hypotheses


async def test_call_on_a_connection_over_its_age_is_answered(make_shell: ShellFactory) -> None:
    shell = await make_shell(max_connection_age_seconds=0.2)
    shell.front.hang = True
    call = asked(shell)
    async with asyncio.timeout(20):
        await shell.front.submitted.wait()
        await shell.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        shell.front.hang = False
        assert (await call).hypotheses


async def test_call_is_cancelled_when_the_grace_of_its_connection_is_over(make_shell: ShellFactory) -> None:
    shell = await make_shell(max_connection_age_seconds=0.2, max_connection_age_grace_seconds=2)
    shell.front.hang = True
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asyncio.wait_for(asked(shell), 20)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    await until(lambda: bool(shell.front.tickets[0].cancelled))


def test_connections_have_no_age_by_default() -> None:
    assert not [name for name, _ in channel_arguments(GrpcConfig()) if "age" in name.split("_")]
    old = dict(channel_arguments(GrpcConfig(max_connection_age_seconds=60)))
    assert (old["grpc.max_connection_age_ms"], old["grpc.max_connection_age_grace_ms"]) == (60_000, 300_000)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_both_versions_of_reflection_list_and_describe_all_services(shell: Shell, version: str) -> None:
    ask = shell.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    async def answers(*requests: reflection_pb2.ServerReflectionRequest) -> list[reflection_pb2.ServerReflectionResponse]:
        async def sent() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            for request in requests:
                yield request

        return [answer async for answer in ask(sent(), timeout=20)]

    (listed,) = await answers(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = [service.name for service in listed.list_services_response.service]
    assert {f"grpc.reflection.{each}.ServerReflection" for each in ("v1", "v1alpha")} <= set(names)
    described = await answers(*(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names))
    for name, answer in zip(names, described, strict=True):
        file = descriptor_pb2.FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
        assert name in [f"{file.package}.{service.name}" for service in file.service]
