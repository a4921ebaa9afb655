# SPDX-License-Identifier: Apache-2.0
"""Golden answers: what a bundle says that its model answers, compared with what the engine answers before the model is served.

A kind of engine names the function that reads them (``kinds.py``). The engine is asked as by any request, so the graphs, the
kernels of this processor and the search are tested together.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from attnserve_server.bundle.loader import Bundle
from attnserve_server.config import EngineConfig
from attnserve_server.engine.worker.engine import Engine
from attnserve_server.errors import BundleError
from attnserve_server.kinds import Kind, imported
from attnserve_server.request import Done, Failed, ModelKey, Terms, Work

_PAUSE_S = 0.001
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Golden:
    """One question whose answer is known.

    Args:
        name: which one it is, for messages: the number of the input, and how it is asked.
        payload: of the model's kind.
        difference: says of an outcome what was expected and what came; empty where it is right.
    """

    name: str
    payload: Any
    difference: Callable[[Any], str]


Groups = Sequence[Sequence[Golden]]
"""What is asked together, group by group."""


def starting(engine: Engine, kind: Kind, bundle: Bundle, config: EngineConfig) -> Iterator[None]:
    """Loads and warms up an engine, and compares the golden answers, in parts.

    Raises:
        BundleError: the model answers otherwise, or the golden answers cannot be read; raised by the iterator.
    """
    yield from engine.starting()
    model, version = bundle.key
    if not config.check_answers:
        return
    if not bundle.manifest.golden_file or not kind.golden:
        log.info("%s, version %s, has no golden answers: it is served without a comparison", model, version)
        return
    read = cast(Callable[[Bundle], Groups], imported(kind.golden))
    problems: list[str] = []
    for group in read(bundle):
        fitting = [golden for golden in group if golden.payload.num_rows <= config.slots]
        yield from _compare(engine, ModelKey(*bundle.key), fitting, problems)
    engine.stats()  # these were no requests: no metric counts them
    if problems:
        raise BundleError(str(bundle.folder), [f"variant {bundle.variant.name}, golden {problem}" for problem in problems])


def _compare(engine: Engine, model: ModelKey, group: Sequence[Golden], problems: list[str]) -> Iterator[None]:
    """Asks a group, one step before each yield; adds to ``problems`` what is wrong with the answers."""
    for number, golden in enumerate(group):
        payload = golden.payload
        engine.submit(Work(number, model, Terms(), payload.num_rows, payload.num_rows * payload.num_source, payload))
    waiting = dict(enumerate(group))
    while engine.has_work:
        time.sleep(min(engine.due_in_s, _PAUSE_S))  # a batch may wait for its window
        for event in engine.step():
            if isinstance(event, Done):
                golden = waiting.pop(event.request_id)
                if difference := golden.difference(event.outcome):
                    problems.append(f"{golden.name}: {difference}")
            elif isinstance(event, Failed):
                problems.append(f"{waiting.pop(event.request_id).name}: no answer ({event.reason}: {event.message})")
        yield
    problems += [f"{golden.name}: no answer" for golden in waiting.values()]
