# SPDX-License-Identifier: Apache-2.0
"""A server for each test, and both clients with one blocking interface."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from attnserve_client import AsyncClient, Client, RetryPolicy
from tests.fakes.server import FakeServer

FAST_RETRIES = RetryPolicy(retries=3, initial_backoff_s=0.001, max_backoff_s=0.005)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


class BlockingAsyncClient:
    """An ``AsyncClient`` and its loop, with the interface of ``Client``, so that the same tests run with both."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._make(*args, **kwargs))

    async def _make(self, *args: Any, **kwargs: Any) -> AsyncClient:
        return AsyncClient(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self._runner.run(getattr(self._client, name)(*args, **kwargs))

    def translate_stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return self._drive(self._client.translate_stream(*args, **kwargs))

    def translate_many(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return self._drive(self._client.translate_many(*args, **kwargs))

    def caption_stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return self._drive(self._client.caption_stream(*args, **kwargs))

    def caption_many(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return self._drive(self._client.caption_many(*args, **kwargs))

    def segment_many(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return self._drive(self._client.segment_many(*args, **kwargs))

    def classify_many(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return self._drive(self._client.classify_many(*args, **kwargs))

    def classify_video_many(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return self._drive(self._client.classify_video_many(*args, **kwargs))

    def _drive(self, events: Any) -> Iterator[Any]:
        async def advance() -> Any:
            return await anext(events, None)

        try:
            while (event := self._runner.run(advance())) is not None:
                yield event
        finally:
            self._runner.run(events.aclose())

    def close_client(self) -> None:
        self._runner.run(self._client.close())

    def close(self) -> None:
        self.close_client()
        self._runner.close()


@pytest.fixture(params=[Client, BlockingAsyncClient], ids=["sync", "aio"])
def make_client(request: pytest.FixtureRequest, server: FakeServer) -> Iterator[Any]:
    """Makes clients of either kind for ``server``, with fast retries unless told otherwise."""
    clients: list[Any] = []

    def make(address: str | None = None, **kwargs: Any) -> Any:
        clients.append(request.param(address or server.address, **{"retries": FAST_RETRIES, **kwargs}))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: Any) -> Any:
    return make_client()


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which no process listens, and on which only the test may: no other process is given it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that sets it too may listen there
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])
