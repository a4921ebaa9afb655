# SPDX-License-Identifier: Apache-2.0
"""Kinds of engines: the types of payload, outcome and stream part of each kind, their common interfaces, and the engine's path.

A worker receives a kind as an import path ("package.module:NAME"). The imported object names the message types that the worker will
receive and the function that makes the engine, so a kind outside the server only has to be importable. Nothing here imports an
engine.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.checks import iterative_problems
from attnserve_server.bundle.loader import Bundle
from attnserve_server.bundle.single_pass import largest_batch, single_pass_problems
from attnserve_server.config import EngineConfig
from attnserve_server.passes import PassOutcome, PassPayload
from attnserve_server.request import SequenceOutcome, SequencePayload, TokensProduced
from attnserve_server.stats import Measured


class Payload(Protocol):
    """The properties of a payload that front and data plane read."""

    @property
    def num_rows(self) -> int:
        """Maximum number of row slots."""
        ...

    @property
    def num_source(self) -> int:
        """Size of its source: tokens, or cells of an image."""
        ...

    @property
    def num_pieces(self) -> int:
        """Pieces that count against the model's limit of source pieces; the end symbol does not."""
        ...

    @property
    def max_steps(self) -> int:
        """Maximum number of decode steps."""
        ...

    @property
    def is_reproducible(self) -> bool:
        """Whether equal payloads have equal outcomes."""
        ...


class Outcome(Protocol):
    """The properties of an outcome that the front reads."""

    @property
    def num_generated(self) -> int:
        """Tokens of the best answer, for metrics."""
        ...

    @property
    def num_bytes(self) -> int:
        """Size of its large parts, such as attention."""
        ...

    def as_part(self, request_id: int) -> Part | None:
        """Returns the whole outcome as one part of a stream; None if this kind does not stream."""
        ...


class Part(Protocol):
    """A part of a streamed answer, as the front and its tickets read it."""

    @property
    def request_id(self) -> int:
        """Number of its request."""
        ...

    @property
    def size(self) -> int:
        """Number of tokens."""
        ...

    def merged(self, following: Part) -> Part:
        """Returns this part and the following one as one."""
        ...


def credit_of_slots(bundle: Bundle, config: EngineConfig) -> int:
    """Returns 1.25 times the slots, so that a freed slot is filled without a round trip."""
    return config.slots + max(2, config.slots // 4)


def credit_of_batches(bundle: Bundle, config: EngineConfig) -> int:
    """Returns two of the largest batches: one that runs, and the next."""
    asked = config.batches_of(bundle.manifest.model_id).max_batch
    return 2 * max(largest_batch(bundle.variant, wants_attention=wants, asked=asked) for wants in (False, True))


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of engine.

    Args:
        name: a readable name.
        path: import path of this object, "package.module:NAME".
        engine: import path of a function ``(bundle, config) -> Engine`` (``engine/worker/engine.py``).
        payload: content of a request: a msgspec struct that is a :class:`Payload`, with a unique tag.
        outcome: content of an answer: likewise an :class:`Outcome`.
        problems: returns all problems of a model's manifest.
        part: part of a stream: likewise a :class:`Part`; None if the kind does not stream.
        golden: import path of a function ``(bundle) -> groups`` that reads a bundle's golden answers
            (``engine/worker/golden.py``); empty if the kind has none.
        credit: returns the rows of a model that the front may send to a worker before it gets answers; all others wait in the
            front, where priority and fairness order them.
        measured: what its engine's reports hold, and so which metrics its models have.
    """

    name: str
    path: str
    engine: str
    payload: type[Any]
    outcome: type[Any]
    problems: Callable[[manifest_pb2.Manifest], list[str]]
    part: type[Any] | None = None
    golden: str = ""
    credit: Callable[[Bundle, EngineConfig], int] = credit_of_slots
    measured: Measured = Measured.STEPS


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
"""Iterative models: they decode step by step, with in-flight batching."""

SINGLE_PASS = Kind(
    name="single pass",
    path="attnserve_server.kinds:SINGLE_PASS",
    engine="attnserve_server.engine.worker.single_pass.factory:make_engine",
    payload=PassPayload,
    outcome=PassOutcome,
    problems=single_pass_problems,
    golden="attnserve_server.engine.worker.single_pass.golden:golden_groups",
    credit=credit_of_batches,
    measured=Measured.RUNS,
)
"""Single-pass models: one run of one graph answers a request, with dynamic batching."""


def imported(path: str) -> Any:
    """Returns the object at an import path, "package.module:NAME".

    Raises:
        ImportError: the module or the name does not exist.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ImportError(f"{path}: {error}") from error
