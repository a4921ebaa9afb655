# SPDX-License-Identifier: Apache-2.0
"""Messages between front and workers, as MessagePack over the local socket.

Payload and outcome types depend on the kinds that are served, so each side's decoder is made for a set of kinds. It is replaced
when a model of a new kind is added.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar, Union

import msgspec

from attnserve_server.config import EngineConfig
from attnserve_server.kinds import ITERATIVE, Kind
from attnserve_server.request import Done, Failed, ModelKey, Work
from attnserve_server.stats import EngineStats

EventT = TypeVar("EventT")


class Configure(msgspec.Struct, tag="configure", array_like=True, gc=False):
    """Configures a worker; the first message to it."""

    engine: EngineConfig
    """The engines' section of the configuration."""


class Load(msgspec.Struct, tag="load", array_like=True, gc=False):
    """Loads and serves a bundle; answered with :class:`Ready` or :class:`Broken`."""

    model: ModelKey
    kind: str
    """Import path of its kind of engine, see :attr:`Kind.path`."""
    folder: str
    device: str
    variant: str
    generation: int
    """Of the front's entry for the model; answers carry it, for a model may be taken out and come again meanwhile."""


class Unload(msgspec.Struct, tag="unload", array_like=True, gc=False):
    """Unloads a model and drops its requests in flight, which the front has already ended."""

    model: ModelKey


class Cancel(msgspec.Struct, tag="cancel", array_like=True, gc=False):
    """Drops a request; ``reason`` is "client", "deadline", "shutdown" or "error"."""

    model: ModelKey
    request_id: int
    reason: str


class Stop(msgspec.Struct, tag="stop", array_like=True, gc=False):
    """Ends the worker; no request is in flight."""


class Hello(msgspec.Struct, tag="hello", array_like=True, gc=False):
    """Announces a worker, which waits for its configuration."""

    device: str
    """Device of the worker: "cpu" or "cuda"."""
    onnxruntime: str
    """Version of its ONNX Runtime."""
    problem: str = ""
    """Why it cannot use the device; empty if it can."""


class Loading(msgspec.Struct, tag="loading", array_like=True, gc=False):
    """Reports, repeatedly, that a model is being loaded; None: the worker does something else now."""

    model: ModelKey | None


class Ready(msgspec.Struct, tag="ready", array_like=True, gc=False):
    """Reports that a model is loaded and warm."""

    model: ModelKey
    load_s: float
    generation: int


class Broken(msgspec.Struct, tag="broken", array_like=True, gc=False):
    """Reports that a model could not be loaded; the worker serves the others."""

    model: ModelKey
    problems: list[str]
    """All problems found."""
    generation: int


class Freed(msgspec.Struct, tag="freed", array_like=True, gc=False):
    """Reports requests that will have no answer since their model was unloaded; their blocks are free."""

    request_ids: list[int]


class Progress(msgspec.Struct, Generic[EventT], tag="progress", array_like=True, gc=False):
    """Reports the events of one or several iterations of the engine of the model that ``stats`` names."""

    events: list[EventT]
    """Parts, :class:`Done` and :class:`Failed`."""
    stats: EngineStats


ToWorker = Configure | Load | Unload | Work[Any] | Cancel | Stop
FromWorker = Hello | Loading | Ready | Broken | Progress[Any]
"""Messages about models and requests; :class:`Freed` concerns the link alone."""

ENCODER = msgspec.msgpack.Encoder()


def to_worker(kinds: Iterable[Kind] = (ITERATIVE,)) -> msgspec.msgpack.Decoder[ToWorker]:
    """Makes a decoder of the front's messages, for models of these kinds."""
    payloads = tuple(kind.payload for kind in kinds)
    work: Any = Work[_any_of(payloads)]  # type: ignore[misc]
    return msgspec.msgpack.Decoder(_any_of((Configure, Load, Unload, work, Cancel, Stop)))


def from_worker(kinds: Iterable[Kind] = (ITERATIVE,)) -> msgspec.msgpack.Decoder[FromWorker | Freed]:
    """Makes a decoder of a worker's messages, for models of these kinds."""
    known = tuple(kinds)
    outcomes, parts = tuple(kind.outcome for kind in known), tuple(kind.part for kind in known if kind.part is not None)
    done: Any = Done[_any_of(outcomes)]  # type: ignore[misc]
    progress: Any = Progress[_any_of((Failed, done, *parts))]  # type: ignore[misc]
    return msgspec.msgpack.Decoder(_any_of((Hello, Loading, Ready, Broken, Freed, progress)))


def _any_of(types: tuple[Any, ...]) -> Any:
    """Returns the union of types that are known only at run time."""
    return Union[types]  # noqa: UP007
