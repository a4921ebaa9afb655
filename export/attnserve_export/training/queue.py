# SPDX-License-Identifier: Apache-2.0
"""A queue of training runs: runs the unfinished ones one after the other, each in a separate process.

A queue is a TOML file with one table ``[[run]]`` for each recipe (see :class:`Entry`). A run that was killed continues from its
checkpoint; a run whose folder is missing starts again from its seed. A run that fails is reported and does not stop the others.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from attnserve_export.recipe import CONFIGS, RecipeError, Section, load_recipe
from attnserve_export.recipe.base import shipped_file
from attnserve_export.training.start import folder_name

QUEUES = CONFIGS / "queues"
_NICENESS = 10
_GRACE_S = 60.0


class Entry(Section, frozen=True):
    """Runs of one recipe: all combinations of the values in ``vary``."""

    recipe: str
    hours: float
    """Measured hours of one whole run on one core."""
    gpu_rank: int = 0
    """On a GPU, runs start in ascending order of rank; runs of rank 0 are not run there."""
    parts: int = 1
    """Number of parts of a run longer than two hours; they continue one another, with similar numbers of epochs. One on a GPU."""
    set: dict[str, Any] = {}
    """Changes to the recipe, as dotted keys."""
    vary: dict[str, list[Any]] = {}
    """Dotted keys and the values of each."""


class _Queue(Section, frozen=True):
    run: list[Entry]


@dataclass(frozen=True, slots=True)
class Part:
    """A run, or a part of one: it trains until ``epochs`` are done."""

    recipe: str
    changes: dict[str, Any]
    epochs: int
    first_epoch: int
    hours: float

    @property
    def folder(self) -> str:
        """The run's folder, relative to the folder of all runs."""
        return folder_name(self.recipe, self.changes)

    def share_done(self, runs: Path) -> float:
        """Returns the share of the part that is done, from 0 to 1, as recorded in the run's folder."""
        folder = runs / self.folder
        if (folder / "summary.json").exists():
            return 1.0
        try:
            done = float(json.loads((folder / "progress.json").read_text(encoding="utf-8"))["epochs"])
        except FileNotFoundError:
            return 0.0
        is_last = self.epochs == load_recipe(self.recipe, self.changes).schedule.epochs
        share = (done - self.first_epoch) / (self.epochs - self.first_epoch)
        return max(0.0, min(share, 0.999 if is_last else 1.0))  # the last part is done when its summary is written


def read_queue(name_or_path: str, device: str = "cpu") -> list[Part]:
    """Reads the parts of a queue in the order for a device; the queue is a shipped queue's name, or the path of a TOML file.

    Raises:
        RecipeError: no such file, an invalid key, or a recipe that is missing or rejects a change.
    """
    path = shipped_file(name_or_path, QUEUES, "queue")
    try:
        entries = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _Queue).run
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise RecipeError(f"{path}: {error}") from error
    if device.startswith("cuda"):
        ranked = sorted((entry for entry in entries if entry.gpu_rank), key=lambda entry: entry.gpu_rank)
        entries = [msgspec.structs.replace(entry, parts=1) for entry in ranked]
    return [part for entry in entries for part in _parts(entry)]


def _parts(entry: Entry) -> Iterator[Part]:
    for values in itertools.product(*entry.vary.values()):
        changes = entry.set | dict(zip(entry.vary, values, strict=True))
        epochs = load_recipe(entry.recipe, changes).schedule.epochs
        ends = [round(epochs * (number + 1) / entry.parts) for number in range(entry.parts)]
        for first, last in itertools.pairwise([0, *ends]):
            yield Part(entry.recipe, changes, last, first, entry.hours * (last - first) / epochs)


class QueueRunner:
    """Runs the parts of a queue whose folders are below ``runs``.

    Args:
        parts: in their order of execution.
        data: root of the data sets.
        runs: folder of all runs; a lock in it excludes a second queue.
        device: cpu or cuda.
        jobs: number of concurrent runs, each in a process of one thread.
        is_over: called once a second; when it returns true, running parts are stopped and no others are started.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        data: Path,
        runs: Path,
        device: str = "cpu",
        jobs: int = 1,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._parts, self._data, self._runs, self._device = parts, data, runs, device
        self._jobs, self._is_over = jobs, is_over
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._is_stopping = False

    def hours_left(self) -> float:
        """Returns the remaining hours of all parts on one core, by the queue's figures."""
        return sum(part.hours * (1 - part.share_done(self._runs)) for part in self._parts)

    def table(self) -> str:
        """Returns a line for each part: its share done, its hours, its folder."""
        rows = (
            f"{part.share_done(self._runs):4.0%} {part.hours:5.2f} h  to epoch {part.epochs:3d}  {part.folder}"
            for part in self._parts
        )
        return "\n".join([*rows, f"{self.hours_left():.1f} hours of one core are left"])

    def run(self) -> list[Part]:
        """Runs the unfinished parts; SIGTERM and SIGINT stop it after the current updates. Returns the parts that failed.

        Raises:
            RecipeError: another queue runs in the same folder.
        """
        self._runs.mkdir(parents=True, exist_ok=True)
        with (self._runs / "queue.lock").open("a+", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RecipeError(f"another queue runs in {self._runs}") from error
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                return self._run_all()
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)

    def _run_all(self) -> list[Part]:
        self._say(f"to pause: kill -STOP -- -{os.getpgrp()}; to resume: kill -CONT -- -{os.getpgrp()}")
        active: dict[str, tuple[Part, subprocess.Popen[bytes]]] = {}
        failed: list[Part] = []
        while True:
            is_ending = self._is_stopping or self._is_over()
            if is_ending:
                _end([child for _, child in active.values()])
            for folder, (part, child) in list(active.items()):
                if child.poll() is not None:
                    del active[folder]
                    if child.returncode != 0 and not is_ending:
                        failed.append(part)
                        self._say(f"{folder} failed: see {self._runs / folder / 'output.log'}")
            while not is_ending and len(active) < self._jobs:
                following = self._next({*active, *(each.folder for each in failed)})
                if following is None:
                    break
                active[following.folder] = following, self._start(following)
            if not active:
                break
            time.sleep(0.2)
        for part in failed:
            self._say(f"{part.folder} failed; the end of its output:\n{_end_of(self._runs / part.folder / 'output.log')}")
        self._say(f"{self.hours_left():.1f} hours of one core are left; {len(failed)} runs failed")
        return failed

    def _next(self, excluded: Set[str]) -> Part | None:
        """Returns the first part that is not done and whose run is neither running nor failed."""
        return next((part for part in self._parts if part.folder not in excluded and part.share_done(self._runs) < 1), None)

    def _start(self, part: Part) -> subprocess.Popen[bytes]:
        self._say(f"{part.folder} to epoch {part.epochs}; {self.hours_left():.1f} hours of one core are left")
        folder = self._runs / part.folder
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "attnserve_export",
            "train",
            part.recipe,
            "--data",
            str(self._data),
            "--runs",
            str(self._runs),
        ]
        command += ["--epochs", str(part.epochs), "--device", self._device]
        for key, value in part.changes.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        with (folder / "output.log").open("ab") as log:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        os.setpriority(os.PRIO_PROCESS, child.pid, _NICENESS)
        return child

    def _stop(self, *_: object) -> None:
        self._is_stopping = True

    def _say(self, text: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}")


def _end_of(output: Path, lines: int = 25) -> str:
    return "\n".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Lets all runs save their checkpoints concurrently; kills the runs that take too long."""
    for child in children:
        child.terminate()
    until = time.monotonic() + _GRACE_S
    for child in children:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
