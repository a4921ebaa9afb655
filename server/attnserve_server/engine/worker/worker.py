# SPDX-License-Identifier: Apache-2.0
"""A worker process: owns engines, and steps them.

The front starts it as ``python -m attnserve_server.engine.worker DESCRIPTOR NAME DEVICE MEMORY``: descriptor of the inherited
socket, name of the worker, device, descriptor of the memory that it shares with the front (-1 for none). Between steps it reads the
socket, and waits there only while no engine has anything to do. Models share its time fairly (``scheduling/time_slices.py``).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from attnserve_server.bundle.loader import load_bundle
from attnserve_server.collector import quiet_collector
from attnserve_server.config import EngineConfig
from attnserve_server.engine.link.channel import WorkerEnd
from attnserve_server.engine.link.messages import (
    ENCODER,
    Broken,
    Cancel,
    Configure,
    Freed,
    FromWorker,
    Hello,
    Load,
    Progress,
    Ready,
    ToWorker,
    Unload,
    to_worker,
)
from attnserve_server.engine.link.shared import WorkerMemory
from attnserve_server.engine.worker import golden
from attnserve_server.engine.worker.beat import Beat
from attnserve_server.engine.worker.engine import Engine, make_engine
from attnserve_server.errors import BundleError
from attnserve_server.execution.session import device_problem, onnxruntime_version, resolve_device
from attnserve_server.kinds import ITERATIVE, imported
from attnserve_server.metrics import logs
from attnserve_server.request import ModelKey, Work
from attnserve_server.scheduling.time_slices import TimeSlices

_REPORT_S = 0.05
_BEATS = 5
"""Number of messages that a long part of loading sends within ``hang_seconds``."""
_PR_SET_PDEATHSIG = 1
log = logging.getLogger(__name__)


class Served:
    """An engine of a worker, and its events that are not yet reported."""

    __slots__ = ("engine", "pending", "reported_at")

    def __init__(self, engine: Engine, reported_at: float) -> None:
        self.engine, self.reported_at = engine, reported_at
        self.pending: list[Any] = []


@dataclass(slots=True)
class Starting:
    """An engine that is being started."""

    message: Load
    started_at: float
    engine: Engine | None = None
    parts: Iterator[None] | None = None


class Worker:
    """The loop of one worker process.

    Args:
        channel: connection to the front.
        device: device of the engines.
        clock: monotonic.
        memory: shared with the front; None for none.
    """

    def __init__(
        self,
        channel: WorkerEnd,
        device: str = "cpu",
        clock: Callable[[], float] = time.monotonic,
        memory: WorkerMemory | None = None,
    ) -> None:
        self._channel, self._device, self._clock = channel, device, clock
        self._memory = memory or WorkerMemory()
        self._time_slices, self._beat = TimeSlices(), Beat(self._send)
        self._served: dict[ModelKey, Served] = {}
        self._starting: dict[ModelKey, Starting] = {}
        self._kinds = {ITERATIVE.path: ITERATIVE}
        self._decoder = to_worker()
        self._config = EngineConfig()
        self._has_changed = False
        """Whether models were loaded or unloaded since the last :func:`quiet_collector`."""
        self._is_stopping = False

    def run(self) -> None:
        """Serves until the front sends :class:`Stop`."""
        self._send(Hello(self._device, onnxruntime_version(), device_problem(self._device)))
        while not self._is_stopping:
            self._receive()
            self.step()
            if self._has_changed and not self._starting:
                quiet_collector()
                self._has_changed = False
        self._channel.close()

    def serve(self, model: ModelKey, engine: Engine) -> None:
        """Adds a warm engine."""
        self._served[model] = Served(engine, self._clock())

    def step(self) -> None:
        """Runs one step of the next model, or one part of starting a model; does nothing without work."""
        active = [model for model, each in self._served.items() if each.engine.has_work and not each.engine.due_in_s]
        starting = next(iter(self._starting), None)  # one at a time, so that the first model is ready soonest
        if starting is not None:
            active.append(starting)
        if not active:
            return
        model, started = self._time_slices.choose(active), self._clock()
        if model == starting:
            self._beat.loading(model)
            self._start(self._starting[model])
            self._time_slices.charge(model, self._clock() - started)
            return
        self._beat.loading(None)
        served = self._served[model]
        served.pending += served.engine.step()
        self._time_slices.charge(model, self._clock() - started)
        self._report(served)

    def _receive(self) -> None:
        """Takes the messages that have come; waits for one only while no engine has anything to do."""
        due_in_s = [each.engine.due_in_s for each in self._served.values() if each.engine.has_work]
        for data in self._channel.receive(0.0 if self._starting else min(due_in_s, default=None)):
            self._handle(self._decoder.decode(data))

    def _handle(self, message: ToWorker) -> None:
        if isinstance(message, Work):
            self._served[message.model].engine.submit(self._memory.received(message))
        elif isinstance(message, Cancel):
            if message.model in self._served:
                self._served[message.model].engine.cancel(message.request_id, message.reason)
        elif isinstance(message, Load):
            self._load(message)
        elif isinstance(message, Unload):
            self._unload(message.model)
        elif isinstance(message, Configure):
            self._config = message.engine
        else:
            self._is_stopping = True

    def _load(self, message: Load) -> None:
        """Queues a model to be started; its kind's messages are decoded from now on."""
        self._beat.start(self._config.hang_seconds / _BEATS)
        self._beat.loading(message.model)
        try:
            self._learn(message.kind)
        except Exception as error:  # noqa: BLE001  it is reported
            self._on_broken(message, error)
        else:
            self._starting[message.model] = Starting(message, time.monotonic())

    def _start(self, starting: Starting) -> None:
        """Runs one part of starting a model; reports :class:`Ready` after the last one, or :class:`Broken` if it raised."""
        model = starting.message.model
        try:
            if starting.engine is None or starting.parts is None:
                starting.started_at = time.monotonic()
                starting.engine, starting.parts = self._begun(starting.message)
            else:
                next(starting.parts)
        except StopIteration:
            del self._starting[model]
            self._has_changed = True
            self._beat.loading(None)
            self.serve(model, cast(Engine, starting.engine))
            self._send(Ready(model, time.monotonic() - starting.started_at, starting.message.generation))
        except Exception as error:  # noqa: BLE001  it is reported
            del self._starting[model]
            self._has_changed = True
            self._on_broken(starting.message, error)

    def _begun(self, message: Load) -> tuple[Engine, Iterator[None]]:
        """Makes a model's engine.

        Returns:
            The engine, and an iterator that starts it: each item is one part of loading the graphs, of the warm-up or of the
            comparison of golden answers. The iterator raises BundleError if an answer differs.

        Raises:
            BundleError: the bundle cannot be read, or has problems.
            ImportError: the function that makes the kind's engine does not exist.
        """
        kind = self._kinds[message.kind]
        bundle = load_bundle(Path(message.folder), message.device, message.variant, kind.problems)
        engine = make_engine(kind, bundle, self._config)
        return engine, golden.starting(engine, kind, bundle, self._config)

    def _on_broken(self, message: Load, error: Exception) -> None:
        """Reports a model that cannot be loaded; the others are served."""
        if isinstance(error, BundleError):
            problems = error.problems
        else:
            log.error("%s, version %s, could not be loaded", *message.model, exc_info=error)
            problems = [f"{type(error).__name__}: {error}"]
        self._beat.loading(None)
        self._send(Broken(message.model, problems, message.generation))

    def _unload(self, model: ModelKey) -> None:
        if self._served.pop(model, None) is not None or self._starting.pop(model, None) is not None:
            self._time_slices.forget(model)
            self._has_changed = True
        if dropped := self._memory.dropped(model):
            self._send(Freed(dropped))

    def _learn(self, path: str) -> None:
        """Imports a kind by its path, and adds its messages to those that the worker decodes.

        Raises:
            ImportError: the path does not exist.
        """
        if path not in self._kinds:
            self._kinds[path] = imported(path)
            self._decoder = to_worker(self._kinds.values())

    def _report(self, served: Served) -> None:
        now = self._clock()
        if served.pending or not served.engine.has_work or now - served.reported_at >= _REPORT_S:
            self._send(Progress(self._memory.sent(served.pending), served.engine.stats()))
            served.pending, served.reported_at = [], now

    def _send(self, message: FromWorker | Freed) -> None:
        self._channel.send(ENCODER.encode(message))


def main() -> None:
    """Entry point of the process. It is killed when the front ends; ``__main__.py`` ignores the signals that stop a server."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    logs.configure_logging(os.environ.get(logs.FORMAT_VARIABLE, "text"), os.environ.get(logs.LEVEL_VARIABLE, "INFO"))
    descriptor, device = int(sys.argv[1]), resolve_device(sys.argv[3])
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the front has closed its end
        Worker(WorkerEnd(descriptor), device, memory=WorkerMemory(int(sys.argv[4]))).run()
