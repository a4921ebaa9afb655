# SPDX-License-Identifier: Apache-2.0
"""Clients that send calls while the server stops, and change to another server at the first refusal.

The calls must follow each other within ``arrivals.QUIET_S``; ``test_arrivals.py`` tests that wait on a clock of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import grpc
import pytest

from attnserve.v1 import translation_pb2, translation_pb2_grpc
from attnserve_server.errors import ShuttingDown
from attnserve_server.transport.rpc import server as rpc_server
from tests.unit.server_shell.conftest import Shell, ShellFactory

pytestmark = pytest.mark.load

NUM_CLIENTS, NUM_STOPS = 4, 15


class Clients:
    """Threads that send one call after the other, each over its own connection, until one is not answered."""

    def __init__(self, port: int) -> None:
        self.codes = Counter[str]()
        self._threads = [threading.Thread(target=self._run, args=(port,)) for _ in range(NUM_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = translation_pb2_grpc.TranslationServiceStub(channel)
            try:
                while stub.Translate(translation_pb2.TranslateRequest(text="a"), timeout=20):
                    self.codes["OK"] += 1
            except grpc.RpcError as error:
                self.codes[error.code().name] += 1

    async def ended(self) -> None:
        for thread in self._threads:
            await asyncio.to_thread(thread.join)


async def codes_of_a_stop(shell: Shell) -> Counter[str]:
    """Stops a server amid calls; returns how many ended with each status."""
    shell.front.max_tickets = 100_000
    clients = Clients(shell.port)
    while clients.codes["OK"] < 20 * NUM_CLIENTS:
        await asyncio.sleep(0.005)
    shell.front.submit_error = ShuttingDown("the server is stopping")
    await shell.server.stop(1.0)
    await clients.ended()
    return clients.codes


async def codes_of_stops(make_shell: ShellFactory) -> Counter[str]:
    return sum([await codes_of_a_stop(await make_shell()) for _ in range(NUM_STOPS)], Counter[str]())


async def test_no_call_is_cancelled_while_the_server_stops(make_shell: ShellFactory) -> None:
    codes = await codes_of_stops(make_shell)
    del codes["OK"]
    assert codes == {"UNAVAILABLE": NUM_STOPS * NUM_CLIENTS}


async def test_a_stop_at_once_cancels_calls(make_shell: ShellFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows that the test above can fail."""
    monkeypatch.setattr(rpc_server, "LINGER_S", 0.0)
    assert (await codes_of_stops(make_shell))["CANCELLED"] > 0
