# SPDX-License-Identifier: Apache-2.0
"""Memory and descriptors of the front and of the workers, read from ``/proc`` (proc(5)). Without ``/proc`` there are no series."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from attnserve_server.machine import usable_memory
from attnserve_server.metrics.sampled import Sample, SampledGauge

FRONT = "front"
PROC = Path("/proc")
_PROCESS = ("process",)
_LIMIT = "Max open files"


class ProcessMetrics:
    """Makes the gauges of memory and descriptors.

    Args:
        register: adds a collector to the registry.
        proc: folder in place of ``/proc``, for tests.
    """

    def __init__(self, register: Callable[[SampledGauge], None], proc: Path = PROC) -> None:
        self._proc = proc
        self._workers: Callable[[], Mapping[str, int]] = dict
        self._memory_limit: list[Sample] = []
        for name, text, read in (
            (
                "resident_bytes",
                "Resident memory of a process, in bytes; memory that processes share counts in each.",
                resident_bytes,
            ),
            ("open_fds", "Open descriptors of a process.", open_descriptors),
            ("max_fds", "Limit of the open descriptors of a process.", descriptor_limit),
        ):
            register(SampledGauge(f"attnserve_process_{name}", text, _PROCESS, self._reader(read)))
        text = "Memory that the server may use, in bytes: the least of the machine's and its control groups'."
        register(SampledGauge("attnserve_memory_limit_bytes", text, (), lambda: self._memory_limit))

    def watch(self, workers: Callable[[], Mapping[str, int]]) -> None:
        """From now on the gauges have series: of this process, and of ``workers``, process ids by name."""
        self._workers = workers
        if self._proc.is_dir():
            self._memory_limit = [((), usable_memory().value)]
            self._front = os.getpid()

    def _reader(self, read: Callable[[Path], float | None]) -> Callable[[], list[Sample]]:
        def series() -> list[Sample]:
            if not self._memory_limit:
                return []
            processes = {FRONT: self._front, **{worker_of(name): pid for name, pid in self._workers().items()}}
            values = {name: read(self._proc / str(pid)) for name, pid in processes.items()}
            return [((name,), value) for name, value in values.items() if value is not None]

        return series


def worker_of(start: str) -> str:
    """A worker's name without the number of its start, so that its successor has the same series."""
    return start.partition(".")[0]


def resident_bytes(process: Path) -> float | None:
    """Returns the resident memory of a process in bytes; None if it has ended.

    Args:
        process: its folder in ``/proc``.
    """
    try:
        fields = (process / "statm").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def open_descriptors(process: Path) -> float | None:
    """Returns the number of open descriptors of a process; None if it has ended. See :func:`resident_bytes`."""
    folder = process / "fd"
    try:
        # Linux 6.2 and later give the number as the folder's size; reading 10,000 entries takes milliseconds.
        return folder.stat().st_size or sum(1 for _ in folder.iterdir())
    except OSError:
        return None


def descriptor_limit(process: Path) -> float | None:
    """Returns the soft limit of the open descriptors of a process; None if it has ended. See :func:`resident_bytes`."""
    try:
        lines = (process / "limits").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    soft = next((line.removeprefix(_LIMIT).split()[0] for line in lines if line.startswith(_LIMIT)), None)
    return None if soft is None else float("inf") if soft == "unlimited" else float(soft)
