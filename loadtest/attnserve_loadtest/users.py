# SPDX-License-Identifier: Apache-2.0
"""Locust users of the translation service.

In a closed loop a user asks, waits for the answer, thinks, and asks again: when the server is slow, it is asked less. In an open
loop (``--rate``) each user asks at random times, a Poisson process of its own, whether or not earlier answers have come; latency
then counts from the time that was drawn, so that a server cannot hide behind a client that waits for it.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import grpc
import grpc.experimental.gevent as grpc_gevent
from gevent.pool import Group
from locust import User, task
from locust.exception import StopUser

from attnserve.v1 import decoding_pb2, translation_pb2, translation_pb2_grpc
from attnserve_loadtest import texts
from attnserve_loadtest.recording import BETWEEN_PIECES, FIRST_PIECE, LATE, OUTSIDE, RECORDER, STREAM, UNARY

grpc_gevent.init_gevent()

ATTENTION = {
    "none": decoding_pb2.ATTENTION_DETAIL_NONE,
    "mean": decoding_pb2.ATTENTION_DETAIL_MEAN,
    "all": decoding_pb2.ATTENTION_DETAIL_ALL,
}
_TIMEOUT_S = 60.0
_stubs: dict[str, translation_pb2_grpc.TranslationServiceStub] = {}


def stub_of(address: str) -> translation_pb2_grpc.TranslationServiceStub:
    """The connection that all users of a process share: a server takes connections for clients, and shares itself between them."""
    if address not in _stubs:
        _stubs[address] = translation_pb2_grpc.TranslationServiceStub(grpc.insecure_channel(address))
    return _stubs[address]


class TranslationUser(User):
    """What both kinds of users share."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        self._stub = stub_of((self.host or options.host or "127.0.0.1:8001").removeprefix("http://"))
        self._rate, self._think_s, self._model = options.rate, options.think_seconds, options.model
        self._texts = _shuffled(texts.sentences(Path(options.texts) if options.texts else None))
        self._decode = decoding_pb2.DecodeOptions(beam_size=options.beam_size, return_attention=ATTENTION[options.attention])
        self._open = Group()
        self._rng = random.Random()

    @task
    def requests(self) -> None:
        """One request in a closed loop; in an open one, all there ever are."""
        if self._rate <= 0:
            self.ask(next(self._texts), time.perf_counter())
            gevent.sleep(self._think_s)
            return
        scheduled = time.perf_counter()
        while True:
            scheduled += self._rng.expovariate(self._rate)
            gevent.sleep(max(0.0, scheduled - time.perf_counter()))
            self._open.spawn(self.ask, next(self._texts), scheduled)

    def on_stop(self) -> None:
        """Waits for the answers that are under way in an open loop."""
        self._open.join(timeout=_TIMEOUT_S)

    def ask(self, text: str, scheduled: float) -> None:
        """One request; its latency counts from ``scheduled``, by ``time.perf_counter``."""
        raise NotImplementedError

    def note(self, name: str, seconds: float) -> None:
        """Notes what went well."""
        self.environment.events.request.fire(
            request_type="grpc", name=name, response_time=1e3 * seconds, response_length=0, exception=None, context={}
        )

    def call(self, name: str, scheduled: float, send: Callable[[], float]) -> None:
        """Sends a request and notes how it went.

        Args:
            name: of the event.
            scheduled: when it was to be sent.
            send: returns the seconds that the server says it took.
        """
        began = time.perf_counter()
        try:
            server_s = send()
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.CANCELLED:  # the test is over
                raise StopUser from error
            self.environment.events.request.fire(
                request_type="grpc",
                name=name,
                response_time=1e3 * (time.perf_counter() - scheduled),
                response_length=0,
                exception=RpcFailed(error.code().name),
                context={},
            )
            return
        ended = time.perf_counter()
        self.note(name, ended - scheduled)
        RECORDER.add(name + OUTSIDE, 1e3 * (ended - began - server_s))
        if self._rate > 0:
            RECORDER.add(name + LATE, 1e3 * (began - scheduled))


class TranslateUser(TranslationUser):
    """Asks for whole translations."""

    def ask(self, text: str, scheduled: float) -> None:
        """See :class:`TranslationUser`."""
        request = translation_pb2.TranslateRequest(text=text, model=self._model, options=self._decode)
        self.call(UNARY, scheduled, lambda: self._stub.Translate(request, timeout=_TIMEOUT_S).timings.total_seconds)


class TranslateStreamUser(TranslationUser):
    """Asks for translations piece by piece."""

    def ask(self, text: str, scheduled: float) -> None:
        """See :class:`TranslationUser`."""
        request = translation_pb2.TranslateStreamRequest(text=text, model=self._model, options=self._decode)

        def send() -> float:
            latest, server_s = None, None
            for message in self._stub.TranslateStream(request, timeout=_TIMEOUT_S):  # to its end, or the server sees a client leave
                now = time.perf_counter()
                if message.WhichOneof("event") == "result":
                    server_s = float(message.result.timings.total_seconds)
                else:
                    name, since = (FIRST_PIECE, scheduled) if latest is None else (BETWEEN_PIECES, latest)
                    self.note(name, now - since)
                    latest = now
            if server_s is None:
                raise EndedEarly
            return server_s

        self.call(STREAM, scheduled, send)


class RpcFailed(Exception):
    """A call that ended without an answer; its text is the status."""


class EndedEarly(grpc.RpcError):
    """A stream without its result."""

    def code(self) -> grpc.StatusCode:
        """What it counts as."""
        return grpc.StatusCode.DATA_LOSS


def _shuffled(lines: list[str]) -> Iterator[str]:
    order = list(lines)
    random.shuffle(order)
    return itertools.cycle(order)
