# SPDX-License-Identifier: Apache-2.0
"""How many processors and how much memory this process may use: the least of the machine, its affinity, and its control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_NO_LIMIT = 1 << 60
"""Version 1 writes about 2**63 for no limit of memory."""


class Limit(NamedTuple):
    """A limit, and what sets it: a file of a control group, "affinity" or "machine"."""

    value: float
    source: str


def usable_cpus(root: Path = Path("/"), affinity: int | None = None) -> Limit:
    """Returns the number of processors, a fraction where a quota (`docker --cpus 1.5`) is one.

    Args:
        root: folder in place of ``/``, for tests.
        affinity: number of processors that the scheduler may choose; None for this process'.
    """
    cores = affinity or len(os.sched_getaffinity(0))
    is_all = cores == (os.cpu_count() or cores)
    found = [Limit(cores, "machine" if is_all else "affinity"), *_quotas(root)]
    return min(found, key=lambda limit: limit.value)


def usable_memory(root: Path = Path("/"), physical: int | None = None) -> Limit:
    """Returns the memory in bytes; arguments as of :func:`usable_cpus`, with the machine's memory in bytes."""
    whole = physical or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Limit(whole, "machine")]
    for version, name in ((2, "memory.max"), (1, "memory.limit_in_bytes")):
        for file, text in _values(root, version, "memory", name):
            if text.isdecimal() and int(text) < _NO_LIMIT:
                limits.append(Limit(int(text), file))
    return min(limits, key=lambda limit: limit.value)


def summary(cpus: Limit, memory: Limit) -> str:
    """Returns one phrase for the log."""
    return f"{cpus.value:g} CPUs by {cpus.source}, {memory.value / 2**30:.3g} GiB of memory by {memory.source}"


def _quotas(root: Path) -> Iterator[Limit]:
    """Yields the limits of processor time, of the group and of all groups above it."""
    for file, text in _values(root, 2, "cpu", "cpu.max"):
        quota, period = (*text.split(), "")[:2]
        yield from _quota(quota, period, file)
    for file, quota in _values(root, 1, "cpu", "cpu.cfs_quota_us"):
        period_file = root / file.lstrip("/").replace("cfs_quota", "cfs_period")
        yield from _quota(quota, _read(period_file) or "", file)


def _quota(quota: str, period: str, file: str) -> Iterator[Limit]:
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:  # "max" and -1 are no limit
        yield Limit(int(quota) / int(period), file)


def _values(root: Path, version: int, controller: str, name: str) -> Iterator[tuple[str, str]]:
    """Yields path and content of a file in this process' group and in all groups above it, up to the mount."""
    wanted = controller if version == 1 else ""
    group = next((path for controllers, path in _groups(root) if wanted in controllers), None)
    if group is None:
        return
    for mounted, mount, kind, options in _mounts(root):
        if kind != ("cgroup" if version == 1 else "cgroup2") or (version == 1 and controller not in options):
            continue
        inside = PurePosixPath(group)
        # Without a namespace of groups, the mount shows a part of the tree (a container's group).
        below = inside.relative_to(mounted) if inside.is_relative_to(mounted) else PurePosixPath()
        for folder in (below, *below.parents):
            file = PurePosixPath(mount, str(folder).lstrip("/"), name)
            text = _read(root / str(file).lstrip("/"))
            if text is not None:
                yield str(file), text


def _groups(root: Path) -> Iterator[tuple[list[str], str]]:
    """Yields controllers and path of each of this process' groups; the controller of version 2 is empty."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            yield parts[1].split(","), parts[2]


def _mounts(root: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yields of each mount: the path that is mounted, where, the type, and the options of the file system (proc(5))."""
    for line in (_read(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        fields, types = before.split(), after.split()
        if len(fields) >= 5 and len(types) >= 3:
            yield fields[3], fields[4], types[0], types[2].split(",")


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
