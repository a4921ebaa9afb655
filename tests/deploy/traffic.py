# SPDX-License-Identifier: Apache-2.0
"""A small load of everything that a server counts: answers, streams, images, and each way in which a request can end badly."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from attnserve.v1 import classification_pb2, classification_pb2_grpc
from tests.e2e import captioning
from tests.e2e.serving import LONG_TEXT, SENTENCES, STREAM, ask, start_stream, start_unary

PAUSE_S = 0.02
"""Between two requests, so that a load leaves most of a core to others."""

Request = Callable[[grpc.Channel], object]


def answered(channel: grpc.Channel) -> None:
    ask(channel, SENTENCES[0], timeout=20)


def streamed(channel: grpc.Channel) -> None:
    ask(channel, SENTENCES[1], kind=STREAM, timeout=20)


def caption(channel: grpc.Channel) -> None:
    captioning.caption(channel)


def classified(channel: grpc.Channel) -> None:
    """One run of a single-pass model."""
    stub = classification_pb2_grpc.ClassificationServiceStub(channel)
    stub.ClassifyImage(classification_pb2.ClassifyImageRequest(image=captioning.PHOTO), timeout=20)


def of_no_model(channel: grpc.Channel) -> None:
    ask(channel, SENTENCES[0], timeout=20, model="none")


def empty(channel: grpc.Channel) -> None:
    ask(channel, "", timeout=20)


def late(channel: grpc.Channel) -> None:
    ask(channel, LONG_TEXT, timeout=0.03)


def left(channel: grpc.Channel) -> None:
    """A client that leaves after the first part of a stream."""
    call = start_stream(channel, LONG_TEXT, 20)
    next(call)
    call.cancel()


def burst(number: int) -> Request:
    """So many different requests at once."""

    def send(channel: grpc.Channel) -> None:
        calls = [start_unary(channel, f"{LONG_TEXT} {text}", timeout=20) for text in SENTENCES[:number]]
        for call in calls:
            call.exception()

    return send


def steady(number: int) -> Request:
    """So many different requests at any time: it waits for the oldest, and the next call sends others for those that have ended."""
    texts, calls = itertools.cycle(SENTENCES), deque[Any]()

    def send(channel: grpc.Channel) -> None:
        while len(calls) < number:
            calls.append(start_unary(channel, f"{LONG_TEXT} {next(texts)}", timeout=20))
        calls.popleft().exception()
        while calls and calls[0].done():
            calls.popleft()

    return send


@contextlib.contextmanager
def sending(channel: Callable[[], grpc.Channel], requests: Sequence[Request], num_threads: int = 1) -> Iterator[None]:
    """Sends the requests in turn, over and over, until the block ends; each thread has a channel of its own."""
    stop = threading.Event()

    def run() -> None:
        with channel() as own:
            for request in itertools.cycle(requests):
                if stop.wait(PAUSE_S):
                    return
                with contextlib.suppress(grpc.RpcError):
                    request(own)

    threads = [threading.Thread(target=run) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
