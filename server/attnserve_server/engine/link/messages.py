# SPDX-License-Identifier: Apache-2.0
"""What front and workers say to each other over the local socket, as MessagePack.

The payloads of requests and the outcomes of answers are those of the kinds that are served, so each side's decoder is made for a
set of kinds, and made anew when a model of another kind comes.
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
    """The first message to a worker."""

    engine: EngineConfig
    """The engines' section of the configuration."""


class Load(msgspec.Struct, tag="load", array_like=True, gc=False):
    """Load a bundle and serve it; answered with :class:`Ready` or :class:`Broken`."""

    model: ModelKey
    kind: str
    """The path of its kind of engine, see :attr:`Kind.path`."""
    folder: str
    device: str
    variant: str
    generation: int
    """Of the front's entry for the model; answers carry it, for a model may be taken out and come again meanwhile."""


class Unload(msgspec.Struct, tag="unload", array_like=True, gc=False):
    """Forget a model, and what of it is in flight: the front has given that up."""

    model: ModelKey


class Cancel(msgspec.Struct, tag="cancel", array_like=True, gc=False):
    """Drop a request: ``reason`` is "client" or "deadline"."""

    model: ModelKey
    request_id: int
    reason: str


class Stop(msgspec.Struct, tag="stop", array_like=True, gc=False):
    """Leave; nothing is in flight."""


class Hello(msgspec.Struct, tag="hello", array_like=True, gc=False):
    """A worker is connected and wants to be configured."""

    device: str
    """The device that it has: "cpu" or "cuda"."""
    onnxruntime: str
    """The version of ONNX Runtime that it runs."""


class Loading(msgspec.Struct, tag="loading", array_like=True, gc=False):
    """A model is being loaded, said at the begin and again and again; or (None) the worker does something else now."""

    model: ModelKey | None


class Ready(msgspec.Struct, tag="ready", array_like=True, gc=False):
    """The engine of a model is loaded and warm."""

    model: ModelKey
    load_s: float
    generation: int


class Broken(msgspec.Struct, tag="broken", array_like=True, gc=False):
    """A model could not be loaded; the worker serves the others."""

    model: ModelKey
    problems: list[str]
    """Everything that is wrong with it."""
    generation: int


class Progress(msgspec.Struct, Generic[EventT], tag="progress", array_like=True, gc=False):
    """What happened in one iteration (or a few) of one engine, whose model ``stats`` name."""

    events: list[EventT]
    """Parts, :class:`Done` and :class:`Failed`."""
    stats: EngineStats


ToWorker = Configure | Load | Unload | Work[Any] | Cancel | Stop
FromWorker = Hello | Loading | Ready | Broken | Progress[Any]

ENCODER = msgspec.msgpack.Encoder()


def to_worker(kinds: Iterable[Kind] = (ITERATIVE,)) -> msgspec.msgpack.Decoder[ToWorker]:
    """A decoder of what the front says, where there are models of these kinds."""
    payloads = tuple(kind.payload for kind in kinds)
    work: Any = Work[_any_of(payloads)]  # type: ignore[misc]
    return msgspec.msgpack.Decoder(_any_of((Configure, Load, Unload, work, Cancel, Stop)))


def from_worker(kinds: Iterable[Kind] = (ITERATIVE,)) -> msgspec.msgpack.Decoder[FromWorker]:
    """A decoder of what a worker says, where there are models of these kinds."""
    known = tuple(kinds)
    outcomes, parts = tuple(kind.outcome for kind in known), tuple(kind.part for kind in known if kind.part is not None)
    done: Any = Done[_any_of(outcomes)]  # type: ignore[misc]
    progress: Any = Progress[_any_of((Failed, done, *parts))]  # type: ignore[misc]
    return msgspec.msgpack.Decoder(_any_of((Hello, Loading, Ready, Broken, progress)))


def _any_of(types: tuple[Any, ...]) -> Any:
    """A union that is known only when the program runs."""
    return Union[types]  # noqa: UP007
