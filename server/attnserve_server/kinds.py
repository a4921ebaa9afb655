# SPDX-License-Identifier: Apache-2.0
"""Kinds of engines: what payload, outcome and parts of their models are, what all of these have in common, and where the engine is.

A kind reaches a worker by its dotted path ("package.module:NAME"): the worker imports it, and learns from it which messages it will
be sent and which function makes the engine. So a kind that is no part of the server needs nothing but to be importable there.
Nothing here imports an engine.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.checks import iterative_problems
from attnserve_server.request import SequenceOutcome, SequencePayload, TokensProduced


class Payload(Protocol):
    """What front and data plane ask of any kind's payload; no more of it is their business."""

    @property
    def num_rows(self) -> int:
        """Rows that it may hold at once."""
        ...

    @property
    def num_source(self) -> int:
        """Size of its source: tokens, or cells of an image."""
        ...

    @property
    def num_pieces(self) -> int:
        """What of it counts against the model's limit of source pieces, without the end symbol."""
        ...

    @property
    def max_steps(self) -> int:
        """Steps that it may take at most."""
        ...

    @property
    def is_reproducible(self) -> bool:
        """Whether an equal payload has an equal outcome."""
        ...


class Outcome(Protocol):
    """What the front asks of any kind's outcome."""

    @property
    def num_generated(self) -> int:
        """Tokens of the best answer, for metrics."""
        ...

    def as_part(self, request_id: int) -> Part | None:
        """The whole as one part of a stream; None where this kind has no streams."""
        ...


class Part(Protocol):
    """A part of a streamed answer; what the front and its tickets ask of any kind's."""

    @property
    def request_id(self) -> int:
        """Whose part it is."""
        ...

    @property
    def size(self) -> int:
        """How much it is, in tokens."""
        ...

    def joined(self, following: Part) -> Part:
        """Both as one part."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of engine.

    Args:
        name: for people.
        path: where this very object is, as "package.module:NAME".
        engine: a function ``(bundle, config) -> Engine`` (``engine/worker/engine.py``), as a path of the same form.
        payload: what a request carries, a msgspec struct that is a :class:`Payload`; its tag is its own.
        outcome: what an answer carries, likewise an :class:`Outcome`.
        problems: everything that is wrong with a manifest of its models.
        part: what a stream is made of, likewise a :class:`Part`; None where it has no streams.
        golden: a function ``(bundle) -> groups`` that reads a bundle's golden answers (``engine/worker/golden.py``), as a
            path of the same form; empty where this kind has none.
    """

    name: str
    path: str
    engine: str
    payload: type[Any]
    outcome: type[Any]
    problems: Callable[[manifest_pb2.Manifest], list[str]]
    part: type[Any] | None = None
    golden: str = ""


ITERATIVE = Kind(
    name="iterative",
    path="attnserve_server.kinds:ITERATIVE",
    engine="attnserve_server.engine.worker.iterative.factory:make_engine",
    payload=SequencePayload,
    outcome=SequenceOutcome,
    problems=iterative_problems,
    part=TokensProduced,
    golden="attnserve_server.engine.worker.iterative.golden:golden_groups",
)
"""Models that decode step by step, batched in flight."""


def imported(path: str) -> Any:
    """What stands at a path of the form "package.module:NAME".

    Raises:
        ImportError: there is no such module, or nothing of that name in it.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ImportError(f"{path}: {error}") from error
