# SPDX-License-Identifier: Apache-2.0
"""Processors and memory by the files of control groups, versions 1 and 2, and by the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from attnserve_server.engine.front import pool
from attnserve_server.machine import Limit, summary, usable_cpus, usable_memory

V2 = "30 20 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = (
    "31 20 0:27 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 20 0:28 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
CASES: dict[str, tuple[str, str, Mapping[str, str], Limit, Limit]] = {
    "v2, container with its own namespace": (
        V2.format(root="/"), "0::/", {"/sys/fs/cgroup/cpu.max": "150000 100000", "/sys/fs/cgroup/memory.max": "536870912"},
        Limit(1.5, "/sys/fs/cgroup/cpu.max"), Limit(512 << 20, "/sys/fs/cgroup/memory.max"),
    ),
    "v2, the least one up the path": (
        V2.format(root="/"), "0::/a/b/c",
        {"/sys/fs/cgroup/a/cpu.max": "200000 100000", "/sys/fs/cgroup/a/b/cpu.max": "max 100000", "/sys/fs/cgroup/a/b/c/cpu.max": "300000 100000",
         "/sys/fs/cgroup/a/b/c/memory.max": "max", "/sys/fs/cgroup/a/memory.max": "1000", "/sys/fs/cgroup/other/cpu.max": "1 100000"},
        Limit(2, "/sys/fs/cgroup/a/cpu.max"), Limit(1000, "/sys/fs/cgroup/a/memory.max"),
    ),
    "v2, no limit": (
        V2.format(root="/"), "0::/a", {"/sys/fs/cgroup/a/cpu.max": "max 100000", "/sys/fs/cgroup/a/memory.max": "max"},
        Limit(8, "affinity"), Limit(1 << 33, "machine"),
    ),
    "v2, quota above the affinity": (
        V2.format(root="/"), "0::/", {"/sys/fs/cgroup/cpu.max": "6400000 100000", "/sys/fs/cgroup/memory.max": str(1 << 40)},
        Limit(8, "affinity"), Limit(1 << 33, "machine"),
    ),
    "v2, less than one": (
        V2.format(root="/"), "0::/", {"/sys/fs/cgroup/cpu.max": "20000 100000"}, Limit(0.2, "/sys/fs/cgroup/cpu.max"), Limit(1 << 33, "machine"),
    ),
    "v1, container without a namespace": (
        V1.format(root="/docker/1f"), "5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n0::/",
        {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000", "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "25000",
         "/sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648"},
        Limit(2, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"), Limit(1 << 31, "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ),
    "v1, up the path": (
        V1.format(root="/"), "5:memory:/a/b\n4:cpu,cpuacct:/a/b",
        {"/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1", "/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": "100000",
         "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
         "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712"},
        Limit(3, "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us"), Limit(1 << 33, "machine"),
    ),
    "v1 beside v2": (
        V2.format(root="/").replace("cgroup rw", "cgroup/unified rw") + V1.format(root="/"), "4:cpu,cpuacct:/\n0::/",
        {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000", "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000"},
        Limit(1, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"), Limit(1 << 33, "machine"),
    ),
    "nonsense": (
        "nonsense\n" + V2.format(root="/"), "nonsense\n0::/", {"/sys/fs/cgroup/cpu.max": "100000 0", "/sys/fs/cgroup/memory.max": "-5"},
        Limit(8, "affinity"), Limit(1 << 33, "machine"),
    ),
    "no control groups": ("", "", {}, Limit(8, "affinity"), Limit(1 << 33, "machine")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    mounts, groups, files, cpus, memory = CASES[name]
    for path, text in {"/proc/self/mountinfo": mounts, "/proc/self/cgroup": groups, **files}.items():
        file = tmp_path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n", encoding="utf-8")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cpus(tmp_path, affinity=8) == cpus
    assert usable_memory(tmp_path, physical=1 << 33) == memory


def test_this_machine() -> None:
    cpus, memory = usable_cpus(), usable_memory()
    assert 0 < cpus.value <= len(os.sched_getaffinity(0))
    assert 0 < memory.value <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert summary(Limit(1.5, "cpu.max"), Limit(3 << 29, "machine")) == "1.5 CPUs by cpu.max, 1.5 GiB of memory by machine"


def test_number_of_workers_follows_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, workers in ((0.2, 1), (1.5, 1), (2.0, 2), (3.9, 3)):
        monkeypatch.setattr(pool, "usable_cpus", lambda cpus=cpus: Limit(cpus, "cpu.max"))
        assert pool.auto_workers("cpu") == workers
        assert pool.auto_workers("cuda") == 1
