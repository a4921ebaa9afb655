# SPDX-License-Identifier: Apache-2.0
"""Locust users of the translation and the caption service.

In a closed loop a user sends a request, waits for the answer, pauses, and sends the next: a slow server receives fewer requests. In
an open loop (``--rate``) each user sends requests at random times, a Poisson process, whether or not earlier answers have arrived;
latency then counts from the scheduled time, so that a client that waits for a slow server does not hide the wait.
"""

from __future__ import annotations

import functools
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

from attnserve.v1 import caption_pb2, caption_pb2_grpc, decoding_pb2, translation_pb2, translation_pb2_grpc
from attnserve_client.security import Security
from attnserve_loadtest import images, texts
from attnserve_loadtest.connection import Metadata, blocking_channel
from attnserve_loadtest.recording import BETWEEN_PIECES, CAPTION, FIRST_PIECE, LATE, OUTSIDE, RECORDER, STREAM, UNARY

grpc_gevent.init_gevent()

ATTENTION = {
    "none": decoding_pb2.ATTENTION_DETAIL_NONE,
    "mean": decoding_pb2.ATTENTION_DETAIL_MEAN,
    "all": decoding_pb2.ATTENTION_DETAIL_ALL,
}
_TIMEOUT_S = 60.0
_channels: dict[tuple[str, Security], tuple[grpc.Channel, Metadata]] = {}


def channel_to(address: str, security: Security) -> tuple[grpc.Channel, Metadata]:
    """The connection that all users of a process share, as a client's do, and the metadata of its calls."""
    key = address, security
    if key not in _channels:
        _channels[key] = blocking_channel(address, security)
    return _channels[key]


class LoadUser(User):
    """Base of all users: when they send requests, and what is recorded."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        self.address = (self.host or options.host or "127.0.0.1:8001").removeprefix("http://")
        security = Security(options.ca, options.cert, options.key, options.token_file)
        self._channel, self._metadata = channel_to(self.address, security)
        self._rate, self._think_s, self._model = options.rate, options.think_seconds, options.model
        self._items = _shuffled(self.items(options))
        self._decode = decoding_pb2.DecodeOptions(beam_size=options.beam_size, return_attention=ATTENTION[options.attention])
        self._open = Group()
        self._rng = random.Random()

    @classmethod
    def prepare(cls, options: Any) -> None:
        """Reads what takes long to read, before the load begins and not during it; nothing by default."""

    def items(self, options: Any) -> list[Any]:
        """The items to send, one after the other in a random order."""
        raise NotImplementedError

    @task
    def requests(self) -> None:
        """Sends one request in a closed loop; in an open loop, all requests of the test."""
        if self._rate <= 0:
            self.ask(next(self._items), time.perf_counter())
            gevent.sleep(self._think_s)
            return
        scheduled = time.perf_counter()
        while True:
            scheduled += self._rng.expovariate(self._rate)
            gevent.sleep(max(0.0, scheduled - time.perf_counter()))
            self._open.spawn(self.ask, next(self._items), scheduled)

    def on_stop(self) -> None:
        """Waits for the answers that are outstanding in an open loop."""
        self._open.join(timeout=_TIMEOUT_S)

    def ask(self, item: Any, scheduled: float) -> None:
        """Sends one request, waits for its end and records the result.

        Args:
            item: one of :meth:`items`.
            scheduled: when it was to be sent, in seconds of ``time.perf_counter``; its latency counts from then.

        Raises:
            gevent.GreenletExit: Locust stopped the user; nothing is recorded.
        """
        raise NotImplementedError

    def send(self, method: Callable[..., Any], request: Any) -> Any:
        """Calls a stub's method with the metadata of all calls."""
        return method(request, timeout=_TIMEOUT_S, metadata=self._metadata)

    def note(self, name: str, seconds: float) -> None:
        """Reports a success to Locust under ``name``; ``seconds`` is its latency."""
        self.environment.events.request.fire(
            request_type="grpc", name=name, response_time=1e3 * seconds, response_length=0, exception=None, context={}
        )

    def call(self, name: str, scheduled: float, send: Callable[[], float]) -> None:
        """Sends a request and records its result; any RpcError is an error, CANCELLED too: it came from the server or a proxy.

        Args:
            name: of the event.
            scheduled: as in :meth:`ask`.
            send: sends it and waits for the end of the answer; returns the server's own time in seconds, or raises RpcError.

        Raises:
            gevent.GreenletExit: as :meth:`ask`; a call that waits when Locust stops its user ends with it, never with CANCELLED.
        """
        began = time.perf_counter()
        try:
            server_s = send()
        except grpc.RpcError as error:
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


class TranslationUser(LoadUser):
    """Requests translations."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._stub = translation_pb2_grpc.TranslationServiceStub(self._channel)

    def items(self, options: Any) -> list[str]:
        """Sentences: the lines of ``options.texts``, or the project's own."""
        return texts.sentences(Path(options.texts) if options.texts else None)


class TranslateUser(TranslationUser):
    """Requests unary translations."""

    def ask(self, item: str, scheduled: float) -> None:
        """See :meth:`LoadUser.ask`."""
        request = translation_pb2.TranslateRequest(text=item, model=self._model, options=self._decode)
        self.call(UNARY, scheduled, lambda: self.send(self._stub.Translate, request).timings.total_seconds)


class TranslateStreamUser(TranslationUser):
    """Requests streamed translations."""

    def ask(self, item: str, scheduled: float) -> None:
        """See :meth:`LoadUser.ask`; also records the time from ``scheduled`` to the first piece, and each time between pieces."""
        request = translation_pb2.TranslateStreamRequest(text=item, model=self._model, options=self._decode)

        def send() -> float:
            latest, server_s = None, None
            for message in self.send(self._stub.TranslateStream, request):  # to its end, or the server counts a disconnect
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


@functools.cache
def image_files(folder: str) -> list[bytes]:
    """The files of a folder, or the project's own photos in many sizes, which takes seconds; read once."""
    return images.photos(Path(folder) if folder else None)


class ImageUser(LoadUser):
    """Base of the users that send image files."""

    abstract = True
    files = staticmethod(image_files)
    """Returns the files of a folder, or the project's own without one; reads them once."""

    @classmethod
    def prepare(cls, options: Any) -> None:
        """See :meth:`LoadUser.prepare`."""
        cls.files(options.images)

    def items(self, options: Any) -> list[bytes]:
        """Image files."""
        return self.files(options.images)


class CaptionUser(ImageUser):
    """Requests captions of images."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._stub = caption_pb2_grpc.CaptionServiceStub(self._channel)
        self._model = environment.parsed_options.caption_model

    def ask(self, item: bytes, scheduled: float) -> None:
        """See :meth:`LoadUser.ask`."""
        request = caption_pb2.CaptionRequest(image=item, model=self._model, options=self._decode)
        self.call(CAPTION, scheduled, lambda: self.send(self._stub.Caption, request).timings.total_seconds)


USERS = (TranslateUser, TranslateStreamUser, CaptionUser)
"""The user classes of this file; ``recording.KINDS`` names those of each kind of load."""


class RpcFailed(Exception):
    """A call that failed; its text is the status."""


class EndedEarly(grpc.RpcError):
    """A stream without its result."""

    def code(self) -> grpc.StatusCode:
        """The status that it is counted as."""
        return grpc.StatusCode.DATA_LOSS


def _shuffled(items: list[Any]) -> Iterator[Any]:
    order = list(items)
    random.shuffle(order)
    return itertools.cycle(order)
