# SPDX-License-Identifier: Apache-2.0
"""The alerts that are not in ``test_alerts.py``, end to end likewise: cause made, seen at the webhook, cleared."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from attnserve_server.machine import Limit
from attnserve_server.metrics import processes
from attnserve_server.metrics.devices import DeviceMetrics
from tests.chaos import faulty
from tests.deploy import cold, traffic
from tests.deploy.prometheus import JOB, Watch, plain_port, watch
from tests.deploy.test_alerts import MODEL
from tests.e2e.serving import SENTENCES, Server, ask, serve
from tests.fakes.nvml import GIB, fake_nvml
from tests.fakes.trust import Files, seconds_from_now
from tests.foreign.asking import count, made_app
from tests.foreign.letters import write_bundle
from tests.stopping import stopped

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]
MIB = 2**20
ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def watched_server(folder: Path, *flags: str) -> Iterator[tuple[Server, Watch]]:
    with serve(folder / "server", "--workers", "1", *flags) as server, watch(folder / "watch", server.http_port) as watched:
        yield server, watched


def test_server_that_cannot_be_scraped(tmp_path: Path) -> None:
    with watched_server(tmp_path) as (server, watched):
        with stopped(server.process.pid):
            watched.wait_for("firing", "AttnserveDown", job=JOB)
        watched.wait_for("resolved", "AttnserveDown", job=JOB)


def test_few_requests_that_fail_for_long(tmp_path: Path) -> None:
    """One in a hundred, for a quarter of an hour and more: the budget of the month does not allow it."""
    faulty.write_models(tmp_path / "models")
    numbers = itertools.count()

    def seldom(channel: grpc.Channel) -> None:
        ask(channel, faulty.POISON if next(numbers) % 100 == 0 else SENTENCES[20], model=faulty.FAULTY)

    def sound(channel: grpc.Channel) -> None:
        ask(channel, SENTENCES[20], model=faulty.FAULTY)

    with watched_server(tmp_path, "--models", str(tmp_path / "models")) as (server, watched):
        with traffic.sending(server.channel, [seldom]):
            watched.wait_for("firing", "AttnserveFaultsSlow", 100, model=faulty.FAULTY)
        with traffic.sending(server.channel, [sound]):
            watched.wait_for("resolved", "AttnserveFaultsSlow", 250, model=faulty.FAULTY)


def test_long_queue_and_slow_requests(tmp_path: Path) -> None:
    with watched_server(tmp_path, "--slots", "1") as (server, watched):
        with traffic.sending(server.channel, [traffic.steady(400)]):
            watched.wait_for("firing", "AttnserveQueueLong", 60, model=MODEL)
            watched.wait_for("firing", "AttnserveSlow", 60, model=MODEL)
        with traffic.sending(server.channel, [traffic.answered]):
            for alert in ("AttnserveQueueLong", "AttnserveSlow"):
                watched.wait_for("resolved", alert, model=MODEL)


def test_missed_deadlines(tmp_path: Path) -> None:
    with watched_server(tmp_path) as (server, watched):
        with traffic.sending(server.channel, [traffic.late, traffic.answered]):
            watched.wait_for("firing", "AttnserveDeadlineExceeded", model=MODEL)
        with traffic.sending(server.channel, [traffic.answered]):
            watched.wait_for("resolved", "AttnserveDeadlineExceeded", model=MODEL)


def test_workers_that_die(tmp_path: Path) -> None:
    alerts = ("AttnserveWorkersDie", "AttnserveWorkerMissing", "AttnserveModelNotReady")
    with watched_server(tmp_path) as (server, watched):
        stop = threading.Event()

        def kill() -> None:
            while not stop.wait(0.02):
                for pid in server.children():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            for alert in alerts:
                watched.wait_for("firing", alert, 60)
        finally:
            stop.set()
            thread.join()
        for alert in alerts:
            watched.wait_for("resolved", alert, 120)


def test_certificate_that_expires(tmp_path: Path) -> None:
    files, alerts = Files(tmp_path), ("AttnserveCertificateExpiresNow", "AttnserveCertificateExpires")
    files.issue(not_after=seconds_from_now(86_400))
    port = {"ATTNSERVE_HTTP_PLAIN_PORT": "0"}
    tls = ("--tls-cert", str(files.chain), "--tls-key", str(files.key))
    with serve(tmp_path / "server", "--workers", "1", *tls, environment=port) as server:
        plain = plain_port(tmp_path / "server")
        with watch(tmp_path / "watch", plain) as watched:
            for alert in alerts:
                watched.wait_for("firing", alert, 60, certificate="server")
            files.issue()
            for alert in alerts:
                watched.wait_for("resolved", alert, 60, certificate="server")
        assert server.process.poll() is None


def test_descriptors_that_run_out(tmp_path: Path) -> None:
    with watched_server(tmp_path) as (server, watched):
        pid = server.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        number = int(server.scrape().total("attnserve_process_open_fds", process="front"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (number + 3, limits[1]))
        watched.wait_for("firing", "AttnserveDescriptorsRunOut", process="front")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        watched.wait_for("resolved", "AttnserveDescriptorsRunOut", process="front")


async def test_memory_shapes_and_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in this process: its limit of memory is a little above what it uses, and its device is made up."""
    monkeypatch.chdir(ROOT)  # workers find the kind by its path from there
    used, in_use = [10 * GIB], processes.resident_bytes(Path("/proc/self"))
    assert in_use is not None
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(used))
    monkeypatch.setattr(processes, "usable_memory", lambda: Limit(in_use + 800 * MIB, "made up"))
    show = DeviceMetrics.watch
    monkeypatch.setattr(DeviceMetrics, "watch", lambda self, device: show(self, "cuda", {}))
    write_bundle(tmp_path / "models")
    app = made_app(tmp_path / "models", cold.SPEC)
    try:
        await app.start()
        with watch(tmp_path / "watch", app.http_port) as watched:

            async def wait_for(status: str, alert: str, **labels: str) -> None:
                await asyncio.to_thread(watched.wait_for, status, alert, **labels)

            await count(app, "abba")
            await asyncio.sleep(3)
            assert watched.webhook.notified == []
            await count(app, f"abba{cold.COLD}")
            await wait_for("firing", "AttnserveColdShapes")
            used[0] = 79 * GIB
            memory = b"1" * (800 * MIB)
            for alert in ("AttnserveDeviceMemoryRunsOut", "AttnserveMemoryRunsOut"):
                await wait_for("firing", alert)
            used[0] = 10 * GIB
            del memory
            for alert in ("AttnserveColdShapes", "AttnserveDeviceMemoryRunsOut", "AttnserveMemoryRunsOut"):
                await wait_for("resolved", alert)
    finally:
        await app.stop_what_started()
