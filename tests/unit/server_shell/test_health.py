# SPDX-License-Identifier: Apache-2.0
"""The health board, and Check and Watch over it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from attnserve_server.transport.rpc.health import HealthBoard
from tests.fakes.dataplane import Front, letters_model
from tests.unit.server_shell.conftest import Shell, ShellFactory

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
async def shell(make_shell: ShellFactory) -> Shell:
    return await make_shell(Front(letters_model("a"), letters_model("b")))


def stub(shell: Shell) -> Any:
    return health_pb2_grpc.HealthStub(shell.channel)


def request(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def check(shell: Shell, service: str = "") -> int:
    return int((await stub(shell).Check(request(service))).status)


async def next_status(watch: Any) -> int:
    return int((await asyncio.wait_for(watch.read(), 30)).status)


async def test_check(shell: Shell) -> None:
    assert await check(shell) == NOT_SERVING
    shell.board.set_ready("a", True)
    assert [await check(shell, name) for name in ("", "a", "b")] == [NOT_SERVING, SERVING, NOT_SERVING]
    shell.board.set_ready("b", True)
    assert await check(shell) == SERVING
    shell.board.drain()
    assert [await check(shell, name) for name in ("", "a", "b")] == [NOT_SERVING] * 3
    shell.board.set_ready("a", True)
    assert await check(shell, "a") == NOT_SERVING


async def test_check_of_an_unknown_service(shell: Shell) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await check(shell, "c")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_probes_are_not_counted(shell: Shell) -> None:
    await check(shell)
    assert shell.recorder.counted == []


async def test_watch(shell: Shell) -> None:
    watch = stub(shell).Watch(request("a"))
    assert await next_status(watch) == NOT_SERVING
    shell.board.set_ready("b", True)
    shell.board.set_ready("a", True)
    assert await next_status(watch) == SERVING
    shell.board.drain()
    assert await next_status(watch) == NOT_SERVING


async def test_watch_of_a_service_that_comes_later(shell: Shell) -> None:
    watch = stub(shell).Watch(request("c"))
    assert await next_status(watch) == SERVICE_UNKNOWN
    shell.board.set_ready("c", True)
    assert await next_status(watch) == SERVING


async def test_a_watcher_that_leaves_takes_no_other_with_it(shell: Shell) -> None:
    first, second = stub(shell).Watch(request()), stub(shell).Watch(request())
    assert [await next_status(first), await next_status(second)] == [NOT_SERVING, NOT_SERVING]
    first.cancel()
    await check(shell)  # on the same connection, so the server has read the cancel too
    shell.board.set_ready("a", True)
    shell.board.set_ready("b", True)
    assert await next_status(second) == SERVING


async def test_watches_end_with_the_server_and_do_not_hold_it_up(shell: Shell) -> None:
    watch = stub(shell).Watch(request())
    await next_status(watch)
    await asyncio.wait_for(shell.server.stop(100.0), 30)
    assert await watch.read() is grpc.aio.EOF
    assert await watch.code() is grpc.StatusCode.OK


def test_summary() -> None:
    board = HealthBoard(["b", "a"])
    assert (board.is_serving, board.summary()) == (False, "not ready: a, b")
    board.set_ready("a", True)
    board.set_ready("b", True)
    assert (board.is_serving, board.summary()) == (True, "ok")
    board.drain()
    assert (board.is_serving, board.summary()) == (False, "draining")
    assert (HealthBoard().is_serving, HealthBoard().summary()) == (False, "no models")


async def list_services(shell: Shell) -> list[str]:
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    # On the wire, a call with one message is that of a stream; grpc.aio fails where a status comes before a stream's messages are sent.
    call = shell.channel.unary_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(
        question.SerializeToString()
    )
    response = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
    return sorted(service.name for service in response.list_services_response.service)


async def test_reflection(shell: Shell) -> None:
    assert await list_services(shell) == [
        "attnserve.v1.CaptionService",
        "attnserve.v1.ClassificationService",
        "attnserve.v1.GenerationService",
        "attnserve.v1.ModelService",
        "attnserve.v1.SegmentationService",
        "attnserve.v1.TranslationService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]


async def test_reflection_can_be_switched_off(make_shell: ShellFactory) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await list_services(await make_shell(reflection=False))
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_id_serves_when_all_its_versions_do() -> None:
    board = HealthBoard()
    for version in ("1", "2"):
        board.set_ready("a", True, version)
    assert board.status("a") == SERVING
    board.set_ready("a", False, "1")
    assert (board.status("a"), board.status(""), board.summary()) == (NOT_SERVING, NOT_SERVING, "not ready: a")
    board.remove("a", "1")
    assert (board.status("a"), board.summary()) == (SERVING, "ok")
    board.remove("a", "2")
    assert (board.status("a"), board.summary()) == (None, "no models")
