# SPDX-License-Identifier: Apache-2.0
"""A worker process: owns the sessions, the slots and the engine loops, and does nothing but step them.

Started by the front as ``python -m attnserve_server.engine.worker DESCRIPTOR NAME``: of the socket that it inherits, and what it is
called. Between two steps it takes what the socket has for it, without waiting while there is work. Its models share its time fairly
(``scheduling/time_slices.py``).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from attnserve_server.bundle.loader import load_bundle
from attnserve_server.collector import quiet_collector
from attnserve_server.engine.link.channel import WorkerEnd
from attnserve_server.engine.link.messages import (
    ENCODER,
    TO_WORKER,
    Cancel,
    Configure,
    Failed,
    FromWorker,
    Hello,
    Progress,
    Ready,
    Stop,
    Submit,
    ToWorker,
)
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.request import RequestEvent
from attnserve_server.scheduling.scheduler import SchedulerConfig
from attnserve_server.scheduling.time_slices import TimeSharing

_REPORT_S = 0.05
_PR_SET_PDEATHSIG = 1
log = logging.getLogger(__name__)


class Worker:
    """The loop of one worker process."""

    def __init__(self, channel: WorkerEnd, clock: Callable[[], float] = time.monotonic) -> None:
        self._channel, self._clock = channel, clock
        self._sharing = TimeSharing()
        self._engines: list[EngineLoop] = []
        self._reported_at: list[float] = []
        self._pending: list[list[RequestEvent]] = []
        self._is_stopping = False

    def run(self) -> None:
        """Loads what the front names, and serves until it is told to stop."""
        self._send(Hello())
        while not self._is_stopping:
            self._receive(wait=not any(engine.has_work for engine in self._engines))
            self._step()
        self._channel.close()

    def _step(self) -> None:
        """One step of the model whose turn it is, if there is work at all."""
        active = [index for index, engine in enumerate(self._engines) if engine.has_work]
        if not active:
            return
        index = self._sharing.choose(active)
        started = self._clock()
        self._pending[index] += self._engines[index].step()
        self._sharing.charge(index, self._clock() - started)
        self._report(index, self._engines[index])

    def _receive(self, *, wait: bool) -> None:
        for data in self._channel.receive(wait=wait):
            self._handle(TO_WORKER.decode(data))

    def _handle(self, message: ToWorker) -> None:
        match message:
            case Submit(model, request):
                self._engines[model].submit(request)
            case Cancel(model, request_id, reason):
                self._engines[model].cancel(request_id, reason)
            case Configure():
                self._configure(message)
            case Stop():
                self._is_stopping = True

    def _configure(self, message: Configure) -> None:
        try:
            for index, model in enumerate(message.models):
                started = time.monotonic()
                bundle = load_bundle(Path(model.folder), model.device, model.variant)
                config = SchedulerConfig(message.num_slots, message.admit_wait_s, max_encoded=bundle.max_encoded)
                engine = EngineLoop(bundle, config, time.monotonic, stream_interval_s=message.stream_interval_s)
                engine.start()
                self._engines.append(engine)
                self._pending.append([])
                self._reported_at.append(time.monotonic())
                self._send(Ready(index, time.monotonic() - started))
        except Exception as error:
            log.exception("a model could not be loaded")
            self._send(Failed(f"{type(error).__name__}: {error}"))
            self._is_stopping = True
        quiet_collector()

    def _report(self, index: int, engine: EngineLoop) -> None:
        now = self._clock()
        if self._pending[index] or not engine.has_work or now - self._reported_at[index] >= _REPORT_S:
            self._send(Progress(index, self._pending[index], engine.stats()))
            self._pending[index], self._reported_at[index] = [], now

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
    logging.basicConfig(
        level=os.environ.get("ATTNSERVE_LOG_LEVEL", "INFO").upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the front is gone
        Worker(WorkerEnd(int(sys.argv[1]))).run()
