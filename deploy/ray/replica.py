# SPDX-License-Identifier: Apache-2.0
"""A deployment of Ray Serve for clusters that run Ray already: each replica starts a server and passes calls on to it.

The server keeps its queues, batches, drain and metrics; Ray places replicas, restarts them, and adds and removes them. Ray does not
pass on the client's address and deadline; a call whose client has left is cancelled. ``config.yaml`` uses :func:`build`.
"""

from __future__ import annotations

import functools
import json
import math
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from ray import serve  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

from attnserve_client import methods
from attnserve_client.calls import Calls
from attnserve_client.channel import CHANNEL_OPTIONS
from attnserve_client.retry import NO_RETRIES

START_S = 120.0
DRAIN_S = 35.0
"""Longer than the server's own drain (``drain_seconds``)."""
PASSED_ON = frozenset({"authorization", "traceparent", "tracestate", "x-client-id", "x-request-id"})
"""Metadata of a call that the server reads."""


def unary(method: methods.Method[Any, Any]) -> Callable[[Any, Any, Any], Awaitable[Any]]:
    """Returns a method of :class:`Replica` that passes a unary call on."""

    async def call(self: Replica, request: Any, grpc_context: Any) -> Any:
        try:
            return await self.calls.unary_callable(method)(request, metadata=passed_on(grpc_context))
        except grpc.aio.AioRpcError as error:
            fail(grpc_context, error)
            return method.response_type()

    return call


def stream(method: methods.Method[Any, Any]) -> Callable[[Any, Any, Any], AsyncIterator[Any]]:
    """Returns a method of :class:`Replica` that passes on a call whose answer is a stream."""

    async def call(self: Replica, request: Any, grpc_context: Any) -> AsyncIterator[Any]:
        try:
            async for response in self.calls.stream_callable(method)(request, metadata=passed_on(grpc_context)):
                yield response
        except grpc.aio.AioRpcError as error:
            fail(grpc_context, error)

    return call


def passed_on(grpc_context: Any) -> list[tuple[str, str]]:
    """Returns the metadata of a call for the server."""
    return [(key, value) for key, value in grpc_context.invocation_metadata() if key in PASSED_ON]


def fail(grpc_context: Any, error: grpc.aio.AioRpcError) -> None:
    """Gives a call the status of the server's, with its details; an exception would lose the reason and the retry delay."""
    grpc_context.set_code(error.code())
    grpc_context.set_details(error.details() or "")
    grpc_context.set_trailing_metadata([(key, value) for key, value in error.trailing_metadata() or ()])


class Replica:
    """One server, with its own workers, and the methods of all its services; Ray finds them by name.

    Ray ends the server of a replica that is killed.

    Args:
        flags: of ``attnserve serve``, such as ``--models DIR --workers 4``.

    Raises:
        RuntimeError: the server ends, or is not ready in time.
    """

    def __init__(self, flags: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="attnserve-")
        ready = Path(self._folder.name, "ready.json")
        own = ("--grpc-port", "0", "--http-port", "0", "--ready-file", str(ready))
        self._server = subprocess.Popen([sys.executable, "-m", "attnserve_server", *own, *shlex.split(flags)])
        until = time.monotonic() + START_S
        while not ready.exists():
            if self._server.poll() is not None or time.monotonic() > until:
                self._server.kill()
                raise RuntimeError(f"the server did not become ready (exit code {self._server.wait()})")
            time.sleep(0.05)
        self._port = int(json.loads(ready.read_text(encoding="utf-8"))["grpc_port"])

    @functools.cached_property
    def calls(self) -> Calls:
        """The server's methods; made in the event loop that calls them."""
        address = f"127.0.0.1:{self._port}"
        return Calls(grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS), address, NO_RETRIES, math.inf)

    Translate = unary(methods.TRANSLATE)
    TranslateStream = stream(methods.TRANSLATE_STREAM)
    Caption = unary(methods.CAPTION)
    CaptionStream = stream(methods.CAPTION_STREAM)
    Segment = unary(methods.SEGMENT)
    ClassifyImage = unary(methods.CLASSIFY_IMAGE)
    ClassifyVideo = unary(methods.CLASSIFY_VIDEO)
    GenerateImage = unary(methods.GENERATE_IMAGE)
    ListModels = unary(methods.LIST_MODELS)
    GetModel = unary(methods.GET_MODEL)

    async def check_health(self) -> None:
        """Asks the server; Ray replaces a replica whose check fails three times.

        Raises:
            RuntimeError: it does not serve, or does not answer.
        """
        check = self.calls.unary_callable(methods.HEALTH_CHECK)
        try:
            answer = await check(methods.HEALTH_CHECK.request_type(), timeout=5)
        except grpc.aio.AioRpcError as error:
            raise RuntimeError(f"the server does not answer: {error.code().name}") from None
        if answer.value != methods.HEALTH_SERVING:
            raise RuntimeError("the server does not serve")

    def __del__(self) -> None:
        """Lets the server drain, when Ray ends the replica."""
        self._server.terminate()
        try:
            self._server.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            self._server.kill()


def build(arguments: dict[str, str]) -> Any:
    """Returns the application, as ``config.yaml`` names it; ``arguments`` has ``flags``, see :class:`Replica`."""
    return serve.deployment(Replica, name="attnserve").bind(arguments.get("flags", ""))
