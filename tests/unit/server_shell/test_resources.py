# SPDX-License-Identifier: Apache-2.0
"""Gauges that are read at each scrape: processes, the device's memory, waiting requests and silent workers."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from attnserve_server.metrics.devices import DeviceMetrics
from attnserve_server.metrics.processes import ProcessMetrics
from attnserve_server.metrics.prometheus import Metrics
from tests.fakes.nvml import GIB, NoDevice, fake_nvml


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"attnserve_{name}", labels)


def fake_process(proc: Path, pid: int, pages: int, num_open: int, limit: str) -> None:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    for number in range(num_open):
        (folder / "fd" / str(number)).touch()
    (folder / "statm").write_text(f"{pages * 3} {pages} 10 1 0 20 0\n")
    (folder / "limits").write_text(
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max cpu time              unlimited            unlimited            seconds   \n"
        f"Max open files            {limit}                 20000                files     \n"
    )


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_memory_and_descriptors_of_front_and_workers(registry: CollectorRegistry) -> None:
    program = [sys.executable, "-c", "print(flush=True); input()"]
    child = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    try:
        ProcessMetrics(registry.register).watch(lambda: {"worker-0.3": child.pid})
        for process in ("front", "worker-0"):
            assert (value(registry, "process_resident_bytes", process=process) or 0) > 1e6
            assert 3 <= (value(registry, "process_open_fds", process=process) or 0) <= 1000
            assert (value(registry, "process_max_fds", process=process) or 0) >= 3
        before = value(registry, "process_open_fds", process="front") or 0
        with contextlib.ExitStack() as files:  # more than earlier tests of this process may have left to be closed
            for _ in range(100):
                files.enter_context(Path(os.devnull).open())
            assert value(registry, "process_open_fds", process="front") == pytest.approx(before + 100, abs=50)
        assert (value(registry, "memory_limit_bytes") or 0) > 1e8
    finally:
        child.communicate(b"\n")
    assert value(registry, "process_resident_bytes", process="worker-0") is None
    assert value(registry, "process_open_fds", process="worker-0") is None
    assert value(registry, "process_max_fds", process="worker-0") is None


def test_fields_are_read_from_proc(registry: CollectorRegistry, tmp_path: Path) -> None:
    fake_process(tmp_path, os.getpid(), 1000, 4, "1024")
    fake_process(tmp_path, 77, 10, 0, "unlimited")
    ProcessMetrics(registry.register, tmp_path).watch(lambda: {"worker-0.0": 77})
    page = os.sysconf("SC_PAGE_SIZE")
    assert value(registry, "process_resident_bytes", process="front") == 1000 * page
    assert value(registry, "process_resident_bytes", process="worker-0") == 10 * page
    assert value(registry, "process_max_fds", process="front") == 1024
    assert value(registry, "process_max_fds", process="worker-0") == float("inf")


def test_without_proc_there_are_no_series(registry: CollectorRegistry, tmp_path: Path) -> None:
    ProcessMetrics(registry.register, tmp_path / "none").watch(lambda: {"worker-0.0": 77})
    families = list(registry.collect())
    assert len(families) == 4
    assert not [family.name for family in families if family.samples]


@pytest.mark.parametrize(("visible", "used"), [("", 2), ("0", 2), ("1,0", 30), ("GPU-1", 30)])
def test_memory_of_the_first_visible_device(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, visible: str, used: int
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([2 * GIB, 30 * GIB], ("GPU-0", "GPU-1")))
    DeviceMetrics(registry.register).watch("cuda", {"CUDA_VISIBLE_DEVICES": visible})
    assert value(registry, "device_memory_bytes", device="cuda:0") == used * GIB
    assert value(registry, "device_memory_limit_bytes", device="cuda:0") == 80 * GIB


def test_device_memory_is_not_shown_on_a_cpu(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([2 * GIB, 30 * GIB], ("GPU-0", "GPU-1")))
    DeviceMetrics(registry.register).watch("cpu")
    assert not [family.name for family in registry.collect() if family.samples]


def refuse(*arguments: object) -> None:
    raise NoDevice("the driver is not loaded")


@pytest.mark.parametrize(
    ("module", "reason"), [(None, "pynvml"), (fake_nvml([2 * GIB, 30 * GIB], ("GPU-0", "GPU-1")), "the driver is not loaded")]
)
def test_nvml_that_cannot_be_used_is_named_in_the_log(
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    module: types.ModuleType | None,
    reason: str,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    if module is not None:
        monkeypatch.setattr(module, "nvmlInit", refuse)
    with caplog.at_level(logging.WARNING):
        DeviceMetrics(registry.register).watch("cuda", {})
    assert "the device's memory is not measured" in caplog.text
    assert reason in caplog.text
    assert value(registry, "device_memory_bytes", device="cuda:0") is None


def test_driver_that_fails_later_ends_the_series_and_no_scrape(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = fake_nvml([2 * GIB, 30 * GIB], ("GPU-0", "GPU-1"))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    DeviceMetrics(registry.register).watch("cuda", {})
    assert value(registry, "device_memory_bytes", device="cuda:0") == 2 * GIB
    monkeypatch.setattr(module, "nvmlDeviceGetMemoryInfo", refuse)
    assert value(registry, "device_memory_bytes", device="cuda:0") is None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    for module in ("liveness", "waiting"):
        monkeypatch.setattr(f"attnserve_server.metrics.{module}.time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_queue_seconds_are_the_age_of_the_oldest_request(registry: CollectorRegistry, clock: list[float]) -> None:
    metrics, model = Metrics(registry), {"model": "m", "version": "1"}
    metrics.register_model("m", "1")
    assert value(registry, "queue_seconds", **model) == 0
    metrics.set_queue("m", "1", 3, clock[0] - 2.5)
    assert value(registry, "queue_seconds", **model) == 2.5
    clock[0] += 4
    assert value(registry, "queue_seconds", **model) == 6.5, "it grows although the front does nothing"
    metrics.set_queue("m", "1", 0, None)
    assert value(registry, "queue_seconds", **model) == 0
    metrics.forget_model("m", "1")
    assert value(registry, "queue_seconds", **model) is None


def test_only_a_worker_with_work_is_silent(registry: CollectorRegistry, clock: list[float]) -> None:
    busy, liveness = set[str](), Metrics(registry).liveness
    liveness.watch(1, lambda: {"worker-0.0": 1}, lambda: busy)

    def silence() -> float | None:
        return value(registry, "worker_silence_seconds", worker="worker-0")

    assert silence() is None
    liveness.heard("worker-0.0")
    clock[0] += 100
    assert silence() == 0
    liveness.given_work("worker-0.0")
    busy.add("worker-0.0")
    assert silence() == 0, "it had nothing to send before"
    clock[0] += 7
    assert silence() == 7
    liveness.heard("worker-0.0")
    clock[0] += 2
    assert silence() == 2
    busy.clear()
    assert silence() == 0
    liveness.forget("worker-0.0")
    assert silence() is None


def test_deaths_of_a_worker_are_counted_over_its_starts(registry: CollectorRegistry) -> None:
    liveness = Metrics(registry).liveness
    liveness.heard("worker-0.0")
    assert value(registry, "worker_deaths_total", worker="worker-0") == 0
    liveness.forget("worker-0.0")
    liveness.heard("worker-0.1")
    liveness.forget("worker-0.1")
    assert value(registry, "worker_deaths_total", worker="worker-0") == 2
