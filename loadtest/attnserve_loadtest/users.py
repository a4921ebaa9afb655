# SPDX-License-Identifier: Apache-2.0
"""The clients of a load test. Each user has a connection of its own; ``locustfile.py`` says which of them run.

A closed-loop user asks again when it was answered, so that a slow server slows the load down. An open-loop user asks at random
moments (a Poisson process of ``--rate`` a second; those of many users add up to one), and counts from the moment at which it meant
to ask: what waits in the client because the server is slow is part of the latency.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import gevent
import grpc
from gevent.pool import Pool
from locust import User, constant, task

from attnserve.v1 import decoding_pb2, translation_pb2, translation_pb2_grpc
from attnserve_loadtest import recording
from attnserve_loadtest.names import BETWEEN_PIECES, FIRST_PIECE, STREAM, UNARY
from attnserve_loadtest.texts import read_texts

_CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
_MAX_UNDER_WAY = 2000
"""Calls of one open-loop user at a time; what comes above waits, and its wait counts."""


class GrpcUser(User):
    """A connection, the texts, and how its calls are counted."""

    abstract = True

    def on_start(self) -> None:
        """Connects."""
        options = self.environment.parsed_options
        self._channel = grpc.insecure_channel(options.address, options=_CHANNEL_OPTIONS)
        self._stub = translation_pb2_grpc.TranslationServiceStub(self._channel)
        self._texts, self._random = read_texts(options.sentences), random.Random()
        detail = decoding_pb2.ATTENTION_DETAIL_MEAN if options.attention else decoding_pb2.ATTENTION_DETAIL_NONE
        self._options = decoding_pb2.DecodeOptions(beam_size=options.beam_size, return_attention=detail)

    def on_stop(self) -> None:
        """Disconnects."""
        self._channel.close()

    def translate(self, began: float) -> None:
        """One unary call, counted from ``began`` (``time.perf_counter``)."""
        self._counted(UNARY, began, lambda: self._stub.Translate(self._request(translation_pb2.TranslateRequest), **self._call))

    def stream(self, began: float) -> None:
        """One stream: its first piece, the time from each piece to the next, and the whole."""
        self._counted(STREAM, began, lambda: self._read(began))

    def _read(self, began: float) -> Any:
        last, message = began, None
        for message in self._stub.TranslateStream(self._request(translation_pb2.TranslateStreamRequest), **self._call):
            if message.WhichOneof("event") == "delta" and message.delta.pieces:
                now = time.perf_counter()
                self._count(FIRST_PIECE if last is began else BETWEEN_PIECES, now - last)
                last = now
        return message

    @property
    def _call(self) -> dict[str, float]:
        return {"timeout": self.environment.parsed_options.deadline}

    def _request(self, kind: Callable[..., Any]) -> Any:
        text = self._random.choice(self._texts)
        return kind(text=text, model=self.environment.parsed_options.model, options=self._options)

    def _counted(self, name: str, began: float, call: Callable[[], Any]) -> None:
        try:
            answer = call()
        except grpc.RpcError as error:
            status = error.code().name if isinstance(error, grpc.Call) else type(error).__name__
            self._count(name, time.perf_counter() - began, error=RuntimeError(status))
        else:
            self._count(name, time.perf_counter() - began, size=answer.ByteSize() if answer is not None else 0)

    def _count(self, name: str, seconds: float, *, size: int = 0, error: Exception | None = None) -> None:
        if error is None:
            recording.of(self.environment).add(name, seconds)
        self.environment.events.request.fire(
            request_type="gRPC",
            name=name,
            response_time=seconds * 1e3,
            response_length=size,
            exception=error,
            context={},
        )


class TranslateUser(GrpcUser):
    """Closed loop, unary."""

    wait_time = constant(0)

    @task
    def ask(self) -> None:
        """Asks once."""
        self.translate(time.perf_counter())


class StreamUser(GrpcUser):
    """Closed loop, streaming."""

    wait_time = constant(0)

    @task
    def ask(self) -> None:
        """Asks once."""
        self.stream(time.perf_counter())


class OpenLoopUser(GrpcUser):
    """Open loop; unary, or streaming with ``--stream``."""

    def on_start(self) -> None:
        """Connects; the first call comes after a random time as every other."""
        super().on_start()
        self._pool, self._scheduled_at = Pool(_MAX_UNDER_WAY), time.perf_counter()

    def on_stop(self) -> None:
        """Lets what is under way end, for as long as a call may take."""
        self._pool.join(self.environment.parsed_options.deadline)
        super().on_stop()

    @task
    def ask(self) -> None:
        """Waits until the next call is due and starts it."""
        options = self.environment.parsed_options
        self._scheduled_at += self._random.expovariate(options.rate)
        gevent.sleep(max(0.0, self._scheduled_at - time.perf_counter()))
        self._pool.spawn(self.stream if options.stream else self.translate, self._scheduled_at)
