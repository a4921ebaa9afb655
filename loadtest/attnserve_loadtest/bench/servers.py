# SPDX-License-Identifier: Apache-2.0
"""The two servers as processes, and a client that asks them: open loop with Poisson arrivals, or a closed loop.

The client sends and receives bytes without parsing them, because it shares a core with the front. Latency counts from the scheduled
time of a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from attnserve.v1 import decoding_pb2, translation_pb2
from attnserve_client.demo.server import DemoServer
from attnserve_client.errors import ToolError
from attnserve_client.security import Security
from attnserve_loadtest.connection import aio_channel

PLAIN = decoding_pb2.DecodeOptions(omit_score=True)
"""As offline: the peer returns no score either."""
UNARY, STREAM = "/attnserve.v1.TranslationService/Translate", "/attnserve.v1.TranslationService/TranslateStream"


@contextlib.contextmanager
def our_server(models: Path, variant: str, *flags: str) -> Iterator[str]:
    """A server of one worker, unless ``flags`` say otherwise; yields its address.

    Raises:
        ToolError: it does not start; with the end of its log.
    """
    with server_process(models, variant, "--workers", "1", *flags) as server:
        yield address_of(server)


def server_process(models: Path, variant: str, *flags: str, environment: Mapping[str, str] | None = None) -> DemoServer:
    """A server with a queue that is never full, as the peer's is unbounded; it starts when the context is entered.

    Args:
        models: the model repository.
        variant: of its bundles.
        flags: further ones.
        environment: of its process; that of this process if None.
    """
    options = ("--models", str(models), "--variant", variant, "--log-level", "warning", "--queue-limit", "100000", *flags)
    return DemoServer(options, environment=environment)


def address_of(server: DemoServer) -> str:
    """Waits until a server is ready.

    Returns:
        The address of its gRPC port.

    Raises:
        ToolError: it does not start; the message has the end of its log.
    """
    try:
        return f"127.0.0.1:{server.wait_ready().grpc}"
    except ToolError as error:
        raise ToolError(f"{error}: {server.log_tail()}") from error


@contextlib.contextmanager
def peer_server(folders: tuple[Path, Path], window_ms: float, batch_size: int, replicas: int) -> Iterator[str]:
    """The peer's server, int8; yields its address.

    Args:
        folders: of the bundle, and of the converted model.
        window_ms: longest wait for a larger batch.
        batch_size: maximum number of sentences in a batch.
        replicas: batches that are translated side by side.

    Raises:
        ToolError: it does not start.
    """
    command = [sys.executable, "-m", "attnserve_loadtest.bench.peer_server", *map(str, folders), "--replicas", str(replicas)]
    command += ["--window-ms", str(window_ms), "--batch-size", str(batch_size)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise ToolError("the peer's server did not start")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a run.

    Attributes:
        latencies: of each request, in seconds.
        seconds: from the first arrival to the last answer.
        client_seconds: processor time of the client in that time.
        first_messages: of a closed loop of streams: seconds from each request to its first message, in the order of ``latencies``.
        answers: of a closed loop: the last message of each request, unparsed.
    """

    latencies: list[float]
    seconds: float
    client_seconds: float = 0.0
    first_messages: list[float] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """The quantile of the latencies at this share, in seconds."""
        return _percentile(self.latencies, share)

    def first_percentile(self, share: float) -> float:
        """The quantile of the times to the first message at this share, in seconds."""
        return _percentile(self.first_messages, share)


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def open_loop(address: str, texts: Sequence[str], rate: float, count: int, seed: int) -> Load:
    """Sends requests at random times (a Poisson process), whether or not earlier ones were answered.

    Args:
        address: of the server.
        texts: asked in turn.
        rate: requests a second.
        count: requests.
        seed: of the arrivals.

    Raises:
        grpc.RpcError: a request failed.
    """
    return _quietly(_open_loop(address, texts, rate, count, seed))


async def _open_loop(address: str, texts: Sequence[str], rate: float, count: int, seed: int) -> Load:
    rng, latencies = random.Random(seed), list[float]()
    async with grpc.aio.insecure_channel(address) as channel:
        ask: Any = channel.unary_unary(UNARY)
        for payload in _payloads(texts[:8], UNARY):
            await ask(payload)

        async def one(payload: bytes, scheduled: float) -> None:
            await ask(payload)
            latencies.append(time.perf_counter() - scheduled)

        payloads, tasks = _payloads(texts, UNARY), set[asyncio.Task[None]]()
        began, spent = time.perf_counter(), time.process_time()
        scheduled = began
        for index in range(count):
            scheduled += rng.expovariate(rate)
            if (wait := scheduled - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.add(asyncio.create_task(one(payloads[index % len(payloads)], scheduled)))
        await asyncio.gather(*tasks)
        return Load(latencies, time.perf_counter() - began, time.process_time() - spent)


def closed_loop(
    address: str,
    texts: Sequence[str],
    method: str,
    clients: int,
    options: decoding_pb2.DecodeOptions = PLAIN,
    security: Security = Security(),  # noqa: B008 - frozen
) -> Load:
    """Sends all texts once from ``clients`` clients; each sends the next text when it has the answer to the last one.

    Args:
        address: of the server.
        texts: asked in turn.
        method: ``UNARY`` or ``STREAM``.
        clients: requests in flight.
        options: of every request.
        security: files of TLS and of the token.

    Raises:
        grpc.RpcError: a request failed.
        ToolError: a file cannot be used.
    """
    return _quietly(_closed_loop((address, security), _payloads(texts, method, options), method, clients))


async def _closed_loop(server: tuple[str, Security], payloads: Sequence[bytes], method: str, clients: int) -> Load:
    waiting, latencies, first_messages, answers = iter(payloads), list[float](), list[float](), list[bytes]()
    opened, metadata = aio_channel(*server)
    async with opened as channel:
        unary: Any = channel.unary_unary(UNARY)
        stream: Any = channel.unary_stream(STREAM)

        async def client() -> None:
            for payload in waiting:
                began, answer = time.perf_counter(), b""
                if method == UNARY:
                    answer = await unary(payload, metadata=metadata)
                else:
                    async for message in stream(payload, metadata=metadata):
                        if not answer:
                            first_messages.append(time.perf_counter() - began)
                        answer = message
                latencies.append(time.perf_counter() - began)
                answers.append(answer)

        began, spent = time.perf_counter(), time.process_time()
        await asyncio.gather(*(client() for _ in range(clients)))
        return Load(latencies, time.perf_counter() - began, time.process_time() - spent, first_messages, answers)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Freezes all existing objects while a client runs: a collection that visits the bench's imports takes a tenth of a second.

    Around several loads, objects are collected and frozen only once.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _quietly(load: Coroutine[Any, Any, Load]) -> Load:
    with quiet():
        return asyncio.run(load)


def _payloads(texts: Sequence[str], method: str, options: decoding_pb2.DecodeOptions = PLAIN) -> list[bytes]:
    kind = translation_pb2.TranslateRequest if method == UNARY else translation_pb2.TranslateStreamRequest
    return [kind(text=text, options=options).SerializeToString() for text in texts]
