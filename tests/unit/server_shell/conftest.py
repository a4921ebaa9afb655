# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the shell's tests: a server with a fake front, and channels to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from attnserve.v1 import model_pb2_grpc, translation_pb2_grpc
from attnserve_server.config_listen import GrpcConfig
from attnserve_server.dataplane.ends import Ends
from attnserve_server.dataplane.plane import DataPlane
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.tasks.images import ImageLimits
from attnserve_server.tasks.interface import Limits
from attnserve_server.transport.rpc.health import HealthBoard
from attnserve_server.transport.rpc.server import GrpcServer
from attnserve_server.transport.trust import Trust
from tests.fakes.dataplane import Front, Recorder


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry)


@dataclass
class Shell:
    """A real server on a free port, with a fake front, and a channel to it."""

    front: Front
    recorder: Recorder
    board: HealthBoard
    plane: DataPlane
    server: GrpcServer
    port: int
    channel: grpc.aio.Channel

    @property
    def translation(self) -> Any:
        return translation_pb2_grpc.TranslationServiceStub(self.channel)

    @property
    def models(self) -> Any:
        return model_pb2_grpc.ModelServiceStub(self.channel)


ShellFactory = Callable[..., Awaitable[Shell]]


@pytest.fixture
async def make_shell() -> AsyncIterator[ShellFactory]:
    made: list[Shell] = []

    async def make(
        front: Front | None = None,
        max_text_chars: int = 10_000,
        trust: Trust | None = None,
        ends: Ends | None = None,
        **settings: Any,
    ) -> Shell:
        front, recorder = front or Front(), Recorder()
        board = HealthBoard(model.id for model in front.models())
        limits = Limits(max_text_chars, ImageLimits(max_bytes=1_000_000, max_pixels=4_000_000))
        plane = DataPlane(front, recorder, limits)
        secured = (None, None) if trust is None else (trust.credentials(), trust.access)
        server = GrpcServer(plane, board, GrpcConfig(port=0, **settings), *secured, ends)
        port = await server.start()
        made.append(Shell(front, recorder, board, plane, server, port, grpc.aio.insecure_channel(f"127.0.0.1:{port}")))
        return made[-1]

    yield make
    for shell in made:
        await shell.channel.close()
        await shell.server.stop(0)
        shell.plane.close()


@pytest.fixture
async def shell(make_shell: ShellFactory) -> Shell:
    return await make_shell()


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Waits for a condition that the server makes true after a call has ended, also on a busy machine."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)
