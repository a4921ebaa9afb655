# SPDX-License-Identifier: Apache-2.0
"""The client of both sides: a closed loop in this process, with a fixed number of requests in flight, over gRPC or HTTP/1.1.

Bodies are made beforehand and answers are not parsed. As is usual, all calls share one connection over gRPC, and over HTTP each
request in flight has one that stays open.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import h11

from attnserve_client.errors import ToolError
from attnserve_loadtest.bench.servers import Load, quiet

BOUNDARY = "bench-boundary-7d1c"
_CHUNK = 1 << 16
_APART_S = 0.004
"""Between two connections: of those that come at once, one of several processes that listen on a port accepts all."""
Ask = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go.

    Attributes:
        address: host and port.
        path: the gRPC method, or the path of an HTTP request.
        bodies: of the requests, in turn: messages, or form data with :data:`BOUNDARY`.
        is_http: HTTP/1.1 instead of gRPC.
    """

    address: str
    path: str
    bodies: Sequence[bytes]
    is_http: bool


def form(name: str, picture: bytes) -> bytes:
    """A JPEG file as form data under a name."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="0.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()


def load(target: Target, clients: int, requests: int) -> tuple[Load, float]:
    """Sends requests from clients, each of which sends its next one when it has the answer to its last one.

    Returns:
        The latencies and answers, in the order of the answers; and this process' processor time, in seconds.

    Raises:
        ToolError: a request was refused, or the connection ended.
    """
    with quiet():
        began = time.process_time()
        try:
            found = asyncio.run(_load(target, clients, requests))
        except (grpc.RpcError, OSError, h11.RemoteProtocolError) as error:
            raise ToolError(f"{target.address}{target.path}: {type(error).__name__}: {str(error)[:200]}") from error
        return found, time.process_time() - began


async def _load(target: Target, clients: int, requests: int) -> Load:
    waiting = iter([target.bodies[index % len(target.bodies)] for index in range(requests)])
    latencies, answers = list[float](), list[bytes]()
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(each) for each in _connections(target, clients)]
        asks = [opened[index % len(opened)] for index in range(clients)]
        began = time.perf_counter()
        await asyncio.gather(*(_ask_in_turn(ask, waiting, latencies, answers) for ask in asks))
        return Load(latencies, time.perf_counter() - began, answers=answers)


async def _ask_in_turn(ask: Ask, waiting: Iterator[bytes], latencies: list[float], answers: list[bytes]) -> None:
    for body in waiting:
        began = time.perf_counter()
        answers.append(await ask(body))
        latencies.append(time.perf_counter() - began)


def _connections(target: Target, clients: int) -> list[contextlib.AbstractAsyncContextManager[Ask]]:
    if not target.is_http:
        return [_grpc(target)]
    return [_http(target) for _ in range(clients)]


@contextlib.asynccontextmanager
async def _grpc(target: Target) -> AsyncIterator[Ask]:
    async with grpc.aio.insecure_channel(target.address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        call: Any = channel.unary_unary(target.path)
        yield call


@contextlib.asynccontextmanager
async def _http(target: Target) -> AsyncIterator[Ask]:
    host, _, port = target.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = h11.Connection(h11.CLIENT)

    async def ask(body: bytes) -> bytes:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        headers = [("Host", target.address), ("Content-Type", kind), ("Content-Length", str(len(body)))]
        request = connection.send(h11.Request(method="POST", target=target.path, headers=headers)) or b""
        writer.write(request + (connection.send(h11.Data(data=body)) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        answer = await _answer(connection, reader)
        connection.start_next_cycle()
        return answer

    try:
        await asyncio.sleep(_APART_S)
        yield ask
    finally:
        writer.close()


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader) -> bytes:
    """Reads one answer; the body only.

    Raises:
        OSError: the status is not 200, or the server closed the connection.
    """
    status, parts = 0, list[bytes]()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            if status != 200:
                raise OSError(f"status {status}: {b''.join(parts)[:200]!r}")
            return b"".join(parts)
        else:
            raise OSError("the server closed the connection")
