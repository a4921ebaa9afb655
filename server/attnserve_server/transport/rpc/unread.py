# SPDX-License-Identifier: Apache-2.0
"""Answers that wait until their clients read them: bounded for each client and for all, and given up where nothing moves.

Used by ``calls.py`` and ``server.py`` only; must not import grpc. HTTP/2's flow control lets a client leave an answer unread for
ever, and gRPC core keeps it until then: ending the call in the server frees nothing. So what is given to core is bounded.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Collection, Mapping

from attnserve_server.config_listen import GrpcConfig
from attnserve_server.errors import AnswersUnread
from attnserve_server.transport.rpc import connections

logger = logging.getLogger(__name__)

MIN_PROGRESS = 1024
"""Bytes that a connection must take within ``stall_seconds``; acknowledgements of pings are below it."""

_CHECKS = 30
"""Checks within ``stall_seconds``."""


class Unread:
    """Counts the bytes of answers under way, and closes connections that do not take theirs.

    Belongs to the event loop.

    Args:
        config: the limits.
    """

    def __init__(self, config: GrpcConfig) -> None:
        self._max_all, self._max_client = config.max_unread_bytes, config.max_client_unread_bytes
        self._stall_s = config.stall_seconds
        self._num_bytes = 0
        self._of_clients: dict[str, int] = {}
        self._waiting: dict[int, tuple[str, float]] = {}
        """Connection and start of each answer under way."""
        self._next = 0
        self._marks: dict[str, tuple[int, float]] = {}
        """Of connections with waiting answers: bytes taken at the last progress, and its time."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all answers under way."""
        return self._num_bytes

    def begin(self, client: str, peer: str, num_bytes: int) -> Callable[..., None]:
        """Counts an answer, and returns the function that ends it, which ignores its arguments.

        Args:
            client: the client that asked.
            peer: its connection, as gRPC names it.
            num_bytes: size of the answer.

        Raises:
            AnswersUnread: too much is under way already.
        """
        own = self._of_clients.get(client, 0)
        if own and own + num_bytes > self._max_client:
            raise AnswersUnread(f"{own} bytes of answers wait for this client to read them; at most {self._max_client} may")
        if self._num_bytes and self._num_bytes + num_bytes > self._max_all:
            raise AnswersUnread(f"{self._num_bytes} bytes of answers wait for clients to read them; at most {self._max_all} may")
        self._next += 1
        number = self._next
        self._waiting[number] = peer, time.monotonic()
        self._num_bytes += num_bytes
        self._of_clients[client] = own + num_bytes
        return functools.partial(self._end, number, client, num_bytes)

    async def watch(self) -> None:
        """Closes connections that take nothing for ``stall_seconds`` while an answer waits for them; runs until it is cancelled."""
        while True:
            await asyncio.sleep(self._stall_s / _CHECKS)
            try:
                await self._check()
            except Exception:
                logger.exception("the check for unread answers failed; it is tried again")

    async def _check(self) -> None:
        before = time.monotonic() - self._stall_s / _CHECKS
        waiting = {peer for peer, began_at in self._waiting.values() if began_at < before}
        self._marks = {peer: mark for peer, mark in self._marks.items() if peer in waiting}
        if waiting:
            self._compare(await asyncio.to_thread(connections.bytes_taken, waiting), time.monotonic())

    def _compare(self, taken: Mapping[str, int], now: float) -> None:
        stalled = set[str]()
        for peer, num_bytes in taken.items():
            last, at = self._marks.get(peer, (-MIN_PROGRESS, now))
            if num_bytes - last >= MIN_PROGRESS:
                self._marks[peer] = num_bytes, now
            elif now - at >= self._stall_s:
                stalled.add(peer)
        if stalled:
            self._close(stalled)

    def _close(self, stalled: Collection[str]) -> None:
        num_answers = sum(peer in stalled for peer, _ in self._waiting.values())
        text = "%d connection(s) closed: %d answer(s) waited for them, and they took nothing for %.0f s"
        logger.warning(text, len(stalled), num_answers, self._stall_s)
        connections.close(stalled)

    def _end(self, number: int, client: str, num_bytes: int, *_: object) -> None:
        if self._waiting.pop(number, None) is not None:
            self._num_bytes -= num_bytes
            left = self._of_clients.pop(client, 0) - num_bytes
            if left:
                self._of_clients[client] = left
