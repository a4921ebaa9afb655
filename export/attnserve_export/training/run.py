# SPDX-License-Identifier: Apache-2.0
"""The shared part of all training runs of single-pass models: epochs, checkpoints, resuming, log, selection, summary.

A run has its own folder: ``checkpoint.pt`` (all state for resuming), ``log.jsonl`` (a line an epoch), ``progress.json``
(the number of finished epochs, read by the queue), ``best.pt`` (the selected weights) and ``summary.json``.

All random numbers of an update are a function of the recipe's seed, the epoch and the update's number. So a run that was killed
continues from its last checkpoint and gives bit-identical results.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from attnserve_export.recipe.base import RecipeError
from attnserve_export.recipe.vision import VisionRecipe
from attnserve_export.training.accelerated import Ahead, load_portable, portable_state, use_device, use_recordable
from attnserve_export.training.files import LOCK, locked, save_atomically, write_json

CHECKPOINT, LOG, PROGRESS, BEST, SUMMARY = "checkpoint.pt", "log.jsonl", "progress.json", "best.pt", "summary.json"

RecipeT = TypeVar("RecipeT", bound=VisionRecipe)
ConfigT = TypeVar("ConfigT")


def cosine_rate(peak: float, progress: float, warmup: float) -> float:
    """Returns the learning rate at ``progress`` (0 to 1): linear up to ``peak`` at ``warmup``, then half a cosine down to 0."""
    if progress < warmup or warmup >= 1:
        return peak * progress / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Returns an optimizer's parameter groups: weight decay for matrices and kernels, none for vectors (biases, scales)."""
    decayed = [each for each in model.parameters() if each.dim() > 1]
    others = [each for each in model.parameters() if each.dim() <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


class Stopped(Exception):
    """The run was stopped on request. Its checkpoint is written; another run continues from there."""


class TrainingRun(ABC, Generic[RecipeT]):
    """One run of a recipe in ``folder``; :meth:`run` may be called again after a kill.

    A subclass's :meth:`prepare` sets ``modules`` and ``optimizers`` (their state is saved) and ``updates_per_epoch``.
    """

    def __init__(self, recipe: RecipeT, data_root: Path, folder: Path, device: str = "cpu") -> None:
        self.recipe, self.data_root, self.folder, self.device = recipe, data_root, folder, torch.device(device)
        self.console = Console(stderr=True)
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.epoch = self.index = self.updates_per_epoch = 0
        self._is_stopping = False
        self._sums: dict[str, float] = {}
        self._seconds = _Seconds()
        self._best: tuple[float, int] | None = None
        self.log: list[dict[str, Any]] = []
        self._ahead: Ahead[Any] | None = None
        self._orders: dict[tuple[int, int], np.ndarray[Any, np.dtype[np.int64]]] = {}

    makers = 0
    """Processes that make batches ahead on a GPU, by :meth:`batch`."""

    @abstractmethod
    def prepare(self) -> None:
        """Reads the data; creates modules and optimizers with fresh weights. PyTorch's generator has the recipe's seed."""

    @abstractmethod
    def update(self, epoch: int, index: int, rng: np.random.Generator) -> Mapping[str, float]:
        """Makes update ``index`` of an epoch, both from 0. Returns figures; their means over the epoch are logged.

        ``rng`` and PyTorch's own generator depend on the seed, ``epoch`` and ``index`` only; the order of an epoch's examples
        is :meth:`order`.
        """

    def batch(self, epoch: int, index: int, rng: np.random.Generator) -> Any:
        """What an update trains on, made on the CPU; ``rng`` is that of :meth:`update`. An update gets it by :meth:`made_batch`."""
        raise NotImplementedError

    def made_batch(self, epoch: int, index: int, rng: np.random.Generator) -> Any:
        """The same as :meth:`batch`; on a GPU it was made ahead, and ``rng`` is left as it is."""
        return self.batch(epoch, index, rng) if self._ahead is None else self._ahead.take(epoch, index)

    @abstractmethod
    def evaluate(self, epoch: int) -> Mapping[str, float]:
        """Returns figures after an epoch, on examples that are held back from training."""

    def score(self, line: Mapping[str, Any]) -> float:
        """Returns an epoch's score from its log line; the highest score selects the weights. The default selects the last epoch."""
        return float(line["epoch"])

    def weights(self) -> dict[str, Tensor]:
        """Returns the content of ``best.pt``."""
        return self.modules["model"].state_dict()

    def conclude(self) -> dict[str, Any]:
        """Returns further entries of the summary, after the last epoch. The selected weights are in ``best.pt``."""
        return {}

    def progress_of(self, epoch: int, index: int) -> float:
        """Returns the share of the whole run that is done before an update, from 0 to 1."""
        return (epoch + index / self.updates_per_epoch) / self.recipe.schedule.epochs

    def order(self, epoch: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Returns a permutation of ``count`` examples for an epoch."""
        if (epoch, count) not in self._orders:
            self._orders = {(epoch, count): np.random.default_rng([self.recipe.seed, epoch]).permutation(count)}
        return self._orders[epoch, count]

    def sizes(self, config: Callable[..., ConfigT], *given: int) -> ConfigT:
        """Builds the architecture's config from ``given`` and the recipe's table ``model``.

        Raises:
            RecipeError: the table has a key or a value that the config rejects.
        """
        try:
            return config(*given, **self.recipe.model)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{self.recipe.model_id}, [model]: {error}") from error

    def request_stop(self) -> None:
        """Makes :meth:`run` save and raise :class:`Stopped` after the current update; safe in a signal handler."""
        self._is_stopping = True

    def run(self, epochs: int | None = None) -> dict[str, Any] | None:
        """Trains until ``epochs`` are done (default: all of the recipe's), counted from the beginning of the run.

        Returns:
            The summary, which is also written, or None if epochs remain.

        Raises:
            RecipeError: the folder's checkpoint is of another recipe, or another process trains in the folder.
            Stopped: after :meth:`request_stop`.
            FloatingPointError: a figure is not finite.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / LOCK, waits=False):
            self.device_name = use_device(self.device)
            torch.manual_seed(self.recipe.seed)
            self.prepare()
            use_recordable(self.optimizers.values(), self.device)
            self._resume()
            last = self.recipe.schedule.epochs
            try:
                self._start_making()
                while self.epoch < min(epochs or last, last):
                    self._run_epoch()
            finally:
                if self._ahead is not None:
                    self._ahead.close()
            return self._summarise() if self.epoch == last else None

    def batch_ahead(self, epoch: int, index: int) -> Any:
        """:meth:`batch` with the random numbers that belong to the update."""
        return self.batch(epoch, index, np.random.default_rng(self._seeds(epoch, index)))

    def _start_making(self) -> None:
        if self.makers and self.device.type != "cpu":
            self._ahead = Ahead(self.batch_ahead, self.updates_per_epoch, self.recipe.schedule.epochs, self.makers)

    def _run_epoch(self) -> None:
        clock, saved = _Seconds.now(), time.monotonic()
        columns = (TextColumn("epoch {task.fields[epoch]} {task.fields[figures]}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal) as progress:
            task = progress.add_task("", total=self.updates_per_epoch, completed=self.index, epoch=self.epoch + 1, figures="")
            while self.index < self.updates_per_epoch:
                self._add(self.one_update())
                self.index += 1
                progress.update(task, advance=1, figures=_as_text(self._means()))
                if self._is_stopping or time.monotonic() - saved > self.recipe.schedule.checkpoint_seconds:
                    self._seconds, clock, saved = self._seconds.until_now(clock), _Seconds.now(), time.monotonic()
                    self._save()
                if self._is_stopping:
                    raise Stopped(f"stopped in epoch {self.epoch + 1} after update {self.index}")
        self._end_epoch(clock)

    def one_update(self) -> Mapping[str, float]:
        """Makes the next :meth:`update`, with its own seeds."""
        seeds = self._seeds(self.epoch, self.index)
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        return self.update(self.epoch, self.index, np.random.default_rng(seeds))

    def _seeds(self, epoch: int, index: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.recipe.seed, epoch, index])

    def _add(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} in epoch {self.epoch + 1}, update {self.index + 1}")
            self._sums[name] = self._sums.get(name, 0.0) + value

    def _means(self) -> dict[str, float]:
        return {name: total / self.index for name, total in self._sums.items()}

    def _end_epoch(self, clock: _Seconds) -> None:
        trained = {name: round(value, 5) for name, value in self._means().items()}
        held = {name: round(value, 5) for name, value in self.evaluate(self.epoch).items()}
        seconds = self._seconds.until_now(clock)
        line: dict[str, Any] = {
            "epoch": self.epoch + 1,
            **trained,
            **held,
            "seconds": round(seconds.wall, 1),
            "cpu_seconds": round(seconds.cpu, 1),
        }
        line |= {"device": self.device_name} if self.device.type != "cpu" else {}
        self.log.append(line)
        if self._best is None or self.score(line) > self._best[0]:
            self._best = self.score(line), self.epoch + 1
            save_atomically({name: value.cpu() for name, value in self.weights().items()}, self.folder / BEST)
        self.epoch, self.index, self._sums, self._seconds = self.epoch + 1, 0, {}, _Seconds()
        self._save()
        (self.folder / LOG).write_text("".join(json.dumps(each) + "\n" for each in self.log), encoding="utf-8")
        self.console.print(_as_text(line))

    def _summarise(self) -> dict[str, Any]:
        assert self._best is not None, "an epoch was run"
        summary = {
            "epochs": self.epoch,
            "updates": self.epoch * self.updates_per_epoch,
            "kept_epoch": self._best[1],
            "parameters": {name: sum(p.numel() for p in module.parameters()) for name, module in self.modules.items()},
            "train_seconds": round(sum(line["seconds"] for line in self.log)),
            "train_cpu_seconds": round(sum(line["cpu_seconds"] for line in self.log)),
            **self.conclude(),
            "log": self.log,
        }
        write_json(summary, self.folder / SUMMARY)
        self.console.print({key: value for key, value in summary.items() if key != "log"})
        return summary

    def _save(self) -> None:
        state = {
            "recipe": msgspec.to_builtins(self.recipe),
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": {name: portable_state(optimizer) for name, optimizer in self.optimizers.items()},
            "position": [self.epoch, self.index],
            "sums": self._sums,
            "seconds": [self._seconds.wall, self._seconds.cpu],
            "best": self._best,
            "log": self.log,
        }
        save_atomically(state, self.folder / CHECKPOINT)
        write_json(
            {"epochs": round(self.epoch + self.index / self.updates_per_epoch, 3), "of": self.recipe.schedule.epochs},
            self.folder / PROGRESS,
        )

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state["recipe"] != msgspec.to_builtins(self.recipe):
            raise RecipeError(f"{path} was made by another recipe: remove {self.folder}, or name another folder")
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in self.optimizers.items():
            load_portable(optimizer, state["optimizers"][name])
        (self.epoch, self.index), self._sums, self._seconds = state["position"], state["sums"], _Seconds(*state["seconds"])
        self._best, self.log = state["best"], state["log"]
        self.console.print(f"resumed at epoch {self.epoch + 1}, update {self.index + 1}")


@dataclass(frozen=True, slots=True)
class _Seconds:
    """Wall time and processor time of this process, in seconds."""

    wall: float = 0.0
    cpu: float = 0.0

    @classmethod
    def now(cls) -> _Seconds:
        return cls(time.monotonic(), time.process_time())

    def until_now(self, since: _Seconds) -> _Seconds:
        """Returns these times plus those elapsed since a reading of the clocks."""
        now = _Seconds.now()
        return _Seconds(self.wall + now.wall - since.wall, self.cpu + now.cpu - since.cpu)


def _as_text(figures: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items())
