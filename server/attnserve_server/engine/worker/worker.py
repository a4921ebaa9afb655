# SPDX-License-Identifier: Apache-2.0
"""A worker process: owns engines, and does nothing but step them.

Started by the front as ``python -m attnserve_server.engine.worker DESCRIPTOR NAME DEVICE``: of the socket that it inherits, what it
is called, and the device that it is to use. Between two steps it takes what the socket has for it, without waiting while there is
work. Its models share its time fairly (``scheduling/time_slices.py``).
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
    FromWorker,
    Hello,
    Load,
    Progress,
    Ready,
    ToWorker,
    Unload,
    to_worker,
)
from attnserve_server.engine.worker import golden
from attnserve_server.engine.worker.engine import Engine, make_engine
from attnserve_server.errors import BundleError
from attnserve_server.execution.session import onnxruntime_version, resolve_device
from attnserve_server.kinds import ITERATIVE, imported
from attnserve_server.metrics import logs
from attnserve_server.request import ModelKey, Work
from attnserve_server.scheduling.time_slices import TimeSharing

_REPORT_S = 0.05
_PR_SET_PDEATHSIG = 1
log = logging.getLogger(__name__)


class Served:
    """An engine of a worker, and what it has to report."""

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
        channel: to the front.
        device: that it uses.
        clock: monotonic.
    """

    def __init__(self, channel: WorkerEnd, device: str = "cpu", clock: Callable[[], float] = time.monotonic) -> None:
        self._channel, self._device, self._clock = channel, device, clock
        self._sharing = TimeSharing()
        self._served: dict[ModelKey, Served] = {}
        self._starting: dict[ModelKey, Starting] = {}
        self._kinds = {ITERATIVE.path: ITERATIVE}
        self._decoder = to_worker()
        self._config = EngineConfig()
        self._has_changed = False
        """Whether models have come or gone since the garbage collector was told."""
        self._is_stopping = False

    def run(self) -> None:
        """Loads what the front names, and serves until it is told to stop."""
        self._send(Hello(self._device, onnxruntime_version()))
        while not self._is_stopping:
            self._receive(wait=not self._starting and not any(each.engine.has_work for each in self._served.values()))
            self.step()
            if self._has_changed and not self._starting:
                quiet_collector()
                self._has_changed = False
        self._channel.close()

    def serve(self, model: ModelKey, engine: Engine) -> None:
        """Takes an engine that is warm."""
        self._served[model] = Served(engine, self._clock())

    def step(self) -> None:
        """One step of the model whose turn it is, or one part of starting the next one; nothing without work."""
        active = [model for model, each in self._served.items() if each.engine.has_work]
        starting = next(iter(self._starting), None)  # one after the other, so that the first one serves soonest
        if starting is not None:
            active.append(starting)
        if not active:
            return
        model, started = self._sharing.choose(active), self._clock()
        if model == starting:
            self._start(self._starting[model])
            self._sharing.charge(model, self._clock() - started)
            return
        served = self._served[model]
        served.pending += served.engine.step()
        self._sharing.charge(model, self._clock() - started)
        self._report(served)

    def _receive(self, *, wait: bool) -> None:
        for data in self._channel.receive(wait=wait):
            self._handle(self._decoder.decode(data))

    def _handle(self, message: ToWorker) -> None:
        if isinstance(message, Work):
            self._served[message.model].engine.submit(message)
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
        """Starts a model when its turn comes; its kind's messages are understood at once."""
        try:
            self._learn(message.kind)
        except Exception as error:  # noqa: BLE001  it is reported
            self._on_broken(message.model, error)
        else:
            self._starting[message.model] = Starting(message, time.monotonic())

    def _start(self, starting: Starting) -> None:
        """One part of starting a model."""
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
            self.serve(model, cast(Engine, starting.engine))
            self._send(Ready(model, time.monotonic() - starting.started_at))
        except Exception as error:  # noqa: BLE001  it is reported
            del self._starting[model]
            self._has_changed = True
            self._on_broken(model, error)

    def _begun(self, message: Load) -> tuple[Engine, Iterator[None]]:
        """A model's engine, and the parts of its start."""
        kind = self._kinds[message.kind]
        bundle = load_bundle(Path(message.folder), message.device, message.variant, kind.problems)
        engine = make_engine(kind, bundle, self._config)
        return engine, golden.starting(engine, kind, bundle, self._config)

    def _on_broken(self, model: ModelKey, error: Exception) -> None:
        """Reports a model that cannot be loaded; the others are served."""
        if isinstance(error, BundleError):
            problems = error.problems
        else:
            log.error("%s, version %s, could not be loaded", *model, exc_info=error)
            problems = [f"{type(error).__name__}: {error}"]
        self._send(Broken(model, problems))

    def _unload(self, model: ModelKey) -> None:
        if self._served.pop(model, None) is not None or self._starting.pop(model, None) is not None:
            self._sharing.forget(model)
            self._has_changed = True

    def _learn(self, path: str) -> None:
        """From now on the messages of a kind of engine are understood."""
        if path not in self._kinds:
            self._kinds[path] = imported(path)
            self._decoder = to_worker(self._kinds.values())

    def _report(self, served: Served) -> None:
        now = self._clock()
        if served.pending or not served.engine.has_work or now - served.reported_at >= _REPORT_S:
            self._send(Progress(served.pending, served.engine.stats()))
            served.pending, served.reported_at = [], now

    def _send(self, message: FromWorker) -> None:
        self._channel.send(ENCODER.encode(message))


def main() -> None:
    """Entry point of the process: dies with the front, leaves signals of the terminal to it."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure_logging(os.environ.get(logs.FORMAT_VARIABLE, "text"), os.environ.get(logs.LEVEL_VARIABLE, "INFO"))
    descriptor, device = int(sys.argv[1]), resolve_device(sys.argv[3])
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the front is gone
        Worker(WorkerEnd(descriptor), device).run()
