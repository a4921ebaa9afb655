# SPDX-License-Identifier: Apache-2.0
"""More calls at once than gRPC core keeps by default: each gets an answer or the server's own refusal, and each is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from attnserve.v1 import translation_pb2, translation_pb2_grpc
from tests.e2e.serving import OPTIONS, SENTENCES, Server, eventually, serve

DECIDED = ("OK", "RESOURCE_EXHAUSTED")

TEXT, QUEUE = SENTENCES[0], 256

pytestmark = pytest.mark.load


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(
        tmp_path_factory.mktemp("server"), "--workers", "1", "--log-level", "warning", "--queue-limit", str(QUEUE)
    ) as running:
        yield running


async def code_of(call: Any) -> str:
    """The status of a call, read to its end."""
    try:
        if isinstance(call, grpc.aio.UnaryUnaryCall):
            await call
        else:
            async for _ in call:
                pass
    except grpc.aio.AioRpcError as error:
        is_by_server = "x-request-id" in dict(error.trailing_metadata())
        return error.code().name if is_by_server else f"{error.code().name} by gRPC core"
    return "OK"


async def outcomes(server: Server, num_calls: int, num_channels: int, kinds: str) -> Counter[str]:
    """The statuses of calls that are all sent at once; ``kinds`` are taken in turn: ``u`` for unary, ``s`` for streamed."""
    channels = [grpc.aio.insecure_channel(server.target, options=OPTIONS) for _ in range(num_channels)]
    stubs = [translation_pb2_grpc.TranslationServiceStub(channel) for channel in channels]
    unary, streamed = translation_pb2.TranslateRequest(text=TEXT), translation_pb2.TranslateStreamRequest(text=TEXT)
    calls = []
    for number in range(num_calls):
        stub = stubs[number % num_channels]
        is_streamed = kinds[number % len(kinds)] == "s"
        calls.append(stub.TranslateStream(streamed, timeout=100) if is_streamed else stub.Translate(unary, timeout=100))
    found = Counter([await code_of(call) for call in calls])
    for channel in channels:
        await channel.close()
    return found


@pytest.mark.parametrize(
    ("num_calls", "num_channels", "kinds"),
    [
        (2_000, 1, "u"),
        (10_000, 15, "us"),
        pytest.param(10_000, 16, "u", marks=pytest.mark.long),
        pytest.param(10_000, 16, "s", marks=pytest.mark.long),
    ],
)
async def test_every_call_is_answered_or_refused_by_the_server_and_counted(
    server: Server, num_calls: int, num_channels: int, kinds: str
) -> None:
    before = server.scrape().total("attnserve_requests_total")
    codes = await outcomes(server, num_calls, num_channels, kinds)
    assert set(codes) <= set(DECIDED), codes
    assert codes["OK"] >= QUEUE, codes
    eventually(lambda: server.scrape().total("attnserve_requests_total") == before + num_calls, "all are counted", pause=0.1)
    server.assert_unharmed()
