# SPDX-License-Identifier: Apache-2.0
"""Kinds of engines: what a model's payload, outcome and parts are, and where a worker finds the engine.

A kind reaches a worker by its dotted path ("package.module:NAME"): the worker imports it, and learns from it which messages it will
be sent and which function makes the engine. So a kind that is no part of the server needs nothing but to be importable there.
Nothing here imports an engine.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.checks import iterative_problems
from attnserve_server.request import SequenceOutcome, SequencePayload, TokensProduced


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of engine.

    Args:
        name: for people.
        path: where this very object is, as "package.module:NAME".
        engine: a function ``(bundle, settings) -> Engine`` (``engine/worker/engine.py``), as a path of the same form.
        payload: what a request carries, a msgspec struct that is a :class:`~attnserve_server.request.Payload`; its tag is its own.
        outcome: what an answer carries, likewise an :class:`~attnserve_server.request.Outcome`.
        problems: everything that is wrong with a manifest of its models.
        part: what a stream is made of, likewise a :class:`~attnserve_server.request.Part`; None where it has no streams.
    """

    name: str
    path: str
    engine: str
    payload: type[Any]
    outcome: type[Any]
    problems: Callable[[manifest_pb2.Manifest], list[str]]
    part: type[Any] | None = None


ITERATIVE = Kind(
    name="iterative",
    path="attnserve_server.kinds:ITERATIVE",
    engine="attnserve_server.engine.worker.iterative.factory:make_engine",
    payload=SequencePayload,
    outcome=SequenceOutcome,
    problems=iterative_problems,
    part=TokensProduced,
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
