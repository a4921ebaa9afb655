# SPDX-License-Identifier: Apache-2.0
"""What front and workers say to each other over the local socket, as MessagePack."""

from __future__ import annotations

import msgspec

from attnserve_server.request import RequestEvent, SequenceRequest
from attnserve_server.stats import EngineStats


class ModelToLoad(msgspec.Struct):
    """A bundle that a worker serves, by its place in the list."""

    folder: str
    device: str
    variant: str


class Configure(msgspec.Struct, tag="configure"):
    """The first message to a worker."""

    models: list[ModelToLoad]
    num_slots: int
    admit_wait_s: float
    stream_interval_s: float


class Submit(msgspec.Struct, tag="submit"):
    """A request for the engine of ``model`` (an index)."""

    model: int
    request: SequenceRequest


class Cancel(msgspec.Struct, tag="cancel"):
    """Drop a request: ``reason`` is "client" or "deadline"."""

    model: int
    request_id: int
    reason: str


class Stop(msgspec.Struct, tag="stop"):
    """Leave; nothing is in flight."""


class Hello(msgspec.Struct, tag="hello"):
    """A worker is connected and wants to be configured."""


class Ready(msgspec.Struct, tag="ready"):
    """The engine of ``model`` is loaded and warm."""

    model: int
    load_s: float


class Failed(msgspec.Struct, tag="worker_failed"):
    """The worker cannot serve; it exits after this."""

    message: str


class Progress(msgspec.Struct, tag="progress"):
    """What happened in one iteration (or a few) of one engine."""

    model: int
    events: list[RequestEvent]
    stats: EngineStats


ToWorker = Configure | Submit | Cancel | Stop
FromWorker = Hello | Ready | Failed | Progress

ENCODER = msgspec.msgpack.Encoder()
TO_WORKER = msgspec.msgpack.Decoder(ToWorker)
FROM_WORKER = msgspec.msgpack.Decoder(FromWorker)
