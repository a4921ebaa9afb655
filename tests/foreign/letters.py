# SPDX-License-Identifier: Apache-2.0
"""A task and a kind of engine that the server's code does not contain: it counts letters, in as many steps as a request sets.

A worker process finds the kind by its dotted path; nothing here is registered anywhere else.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.config import EngineConfig
from attnserve_server.engine.worker.golden import Golden
from attnserve_server.errors import BundleError, InvalidRequest
from attnserve_server.kinds import Kind
from attnserve_server.request import Done, Failed, Work
from attnserve_server.stats import EngineStats, StepStats
from attnserve_server.tasks.interface import Limits, Model
from attnserve_server.tasks.registry import Preparation, TaskSpec

TASK, MODEL_ID = 77, "letters"
STEP_S = 0.005


class Letters(msgspec.Struct, tag="letters", array_like=True, gc=False):
    """The payload."""

    text: str
    num_steps: int = 1
    num_rows: int = 1
    num_pieces: int = 0
    is_reproducible: bool = True

    @property
    def num_source(self) -> int:
        return len(self.text)

    @property
    def max_steps(self) -> int:
        return self.num_steps


class Counted(msgspec.Struct, tag="counted", array_like=True, gc=False):
    """The outcome."""

    counts: dict[str, int]

    @property
    def num_generated(self) -> int:
        return len(self.counts)

    @property
    def num_bytes(self) -> int:
        return 0

    def as_part(self, request_id: int) -> None:
        return None


def problems(manifest: manifest_pb2.Manifest) -> list[str]:
    return [] if manifest.architecture == "abacus" else [f"architecture {manifest.architecture!r} counts no letters"]


def golden_groups(bundle: Bundle) -> list[list[Golden]]:
    """The file is a list of [text, rows, counts]; each is a group of its own."""
    return [
        [Golden(f"input {number}", Letters(text, num_rows=rows), functools.partial(difference, counts))]
        for number, (text, rows, counts) in enumerate(json.loads(bundle.read(bundle.manifest.golden_file)), 1)
    ]


def difference(counts: dict[str, int], outcome: Counted) -> str:
    return "" if outcome.counts == counts else f"expected {counts}, got {outcome.counts}"


KIND = Kind(
    name="letters",
    path="tests.foreign.letters:KIND",
    engine="tests.foreign.letters:make_engine",
    payload=Letters,
    outcome=Counted,
    problems=problems,
    golden="tests.foreign.letters:golden_groups",
)


@dataclass
class Running:
    """A request in the engine."""

    work: Work[Letters]
    since: float
    steps_left: int


class Abacus:
    """The engine: all requests take their steps together."""

    def __init__(self, bundle: Bundle, config: EngineConfig) -> None:
        self.key, self.num_slots = bundle.key, config.slots
        self.alphabet = bundle.read("alphabet.txt").decode()
        self.running: dict[int, Running] = {}
        self.events: list[Any] = []
        self.steps: list[StepStats] = []
        self.cancelled: dict[str, int] = {}

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.events)

    @property
    def due_in_s(self) -> float:
        return 0.0

    def starting(self) -> Iterator[None]:
        if not self.alphabet:
            raise BundleError("abacus", ["the alphabet is empty", "there is nothing to count"])
        for _ in self.alphabet:
            yield

    def submit(self, work: Work[Letters]) -> None:
        self.running[work.request_id] = Running(work, time.monotonic(), work.payload.num_steps)

    def cancel(self, request_id: int, reason: str) -> None:
        if self.running.pop(request_id, None) is not None:
            self.cancelled[reason] = self.cancelled.get(reason, 0) + 1
            self.events.append(Failed(request_id, "CANCELLED", reason))

    def step(self) -> list[Any]:
        time.sleep(STEP_S)
        self.steps.append(StepStats(len(self.running), STEP_S))
        for request_id, each in list(self.running.items()):
            each.steps_left -= 1
            if each.steps_left <= 0:
                del self.running[request_id]
                text, now = each.work.payload.text, time.monotonic()
                outcome = Counted({letter: text.count(letter) for letter in self.alphabet if letter in text})
                self.events.append(Done(request_id, outcome, each.since, 0.0, now, now, each.work.payload.num_steps))
        events, self.events = self.events, []
        return events

    def stats(self) -> EngineStats:
        steps, self.steps, cancelled, self.cancelled = self.steps, [], self.cancelled, {}
        return EngineStats(*self.key, steps, self.num_slots, len(self.running), 0, STEP_S, STEP_S, cancelled)


def make_engine(bundle: Bundle, config: EngineConfig) -> Abacus:
    return Abacus(bundle, config)


@dataclass(frozen=True)
class Prepared:
    payloads: Sequence[Letters]


class Counting:
    """The task; it counts no digits."""

    def load(self, bundle: Bundle) -> None:
        return None

    def check(self, asked: Letters, model: Model, limits: Limits) -> Letters:
        if any(letter.isdigit() for letter in asked.text):
            raise InvalidRequest("text must have no digits", field="text")
        return asked

    def effort(self, asked: Letters) -> int:
        return len(asked.text)

    def prepare(self, asked: Letters, checked: Letters, model: Model, limits: Limits) -> Prepared:
        return Prepared([checked])

    def render(self, prepared: Prepared, answers: Sequence[Done[Counted]]) -> dict[str, int]:
        return answers[0].outcome.counts

    def stream(self, prepared: Prepared) -> Any:
        raise InvalidRequest("letters are not streamed")


SPEC = TaskSpec(
    number=TASK,
    name="letters",
    does="count letters",
    service="made.up.v1.LetterService",
    kind=KIND,
    task=Counting(),
    needs=("architecture",),
    preparation=Preparation("counter", "long texts"),
)


def write_bundle(
    models: Path,
    model_id: str = MODEL_ID,
    version: str = "1",
    alphabet: str = "abc",
    architecture: str = "abacus",
    golden: str = "",
) -> Path:
    """Writes a bundle of the task; ``golden`` is the content of its golden answers, if it has any."""
    folder = models / model_id / version
    folder.mkdir(parents=True)
    files = {"alphabet.txt": alphabet, **({"golden.json": golden} if golden else {})}
    for name, text in files.items():
        (folder / name).write_text(text)
    manifest = {
        "format_version": 1,
        "model_id": model_id,
        "version": version,
        "task": TASK,
        "architecture": architecture,
        "variants": [{"name": "plain", "device": "DEVICE_CPU"}],
        "files": [
            {"name": name, "sha256": hashlib.sha256(text.encode()).hexdigest(), "num_bytes": len(text)}
            for name, text in files.items()
        ],
        "golden_file": "golden.json" if golden else "",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
