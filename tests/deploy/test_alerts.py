# SPDX-License-Identifier: Apache-2.0
"""Alerts end to end: a real server gets into trouble, Prometheus sees it, Alertmanager tells a webhook, and the alert clears.

Durations of the rules are divided by 120. The other alerts are in ``test_alerts_long.py``.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import grpc
import pytest

from tests.chaos import faulty
from tests.deploy import traffic
from tests.deploy.prometheus import watch
from tests.e2e.serving import SENTENCES, ask, eventually, serve, start_unary
from tests.stopping import stopped

pytestmark = pytest.mark.timeout(240)
MODEL = "transformer-en-de"


def test_overload_is_reported_and_clears(tmp_path: Path) -> None:
    flags = ("--workers", "1", "--slots", "1", "--queue-limit", "4")
    with serve(tmp_path / "server", *flags) as server, watch(tmp_path / "watch", server.http_port) as watched:
        with traffic.sending(server.channel, [traffic.burst(16)]):
            watched.wait_for("firing", "AttnserveResourceExhausted", model=MODEL)
        with traffic.sending(server.channel, [traffic.answered]):
            watched.wait_for("resolved", "AttnserveResourceExhausted", model=MODEL)
        server.assert_unharmed()


def test_silent_worker_is_reported_and_clears(tmp_path: Path) -> None:
    """With the default ``hang_seconds`` the server would replace it."""
    environment = {"ATTNSERVE_ENGINE_HANG_SECONDS": "600"}
    with (
        serve(tmp_path / "server", "--workers", "1", environment=environment) as server,
        watch(tmp_path / "watch", server.http_port) as watched,
        server.channel() as channel,
    ):
        ask(channel, SENTENCES[0])
        (pid,) = server.workers.values()
        with stopped(pid):
            call = start_unary(channel, SENTENCES[1], timeout=120)
            watched.wait_for("firing", "AttnserveWorkerSilent", worker="worker-0")
        watched.wait_for("resolved", "AttnserveWorkerSilent", worker="worker-0")
        assert call.result().hypotheses
        server.assert_unharmed()


def test_model_that_fails_is_reported_and_clears(tmp_path: Path) -> None:
    faulty.write_models(tmp_path / "models")
    numbers = itertools.count()

    def sometimes(channel: grpc.Channel) -> None:
        """A quarter of the requests fails."""
        ask(channel, faulty.POISON if next(numbers) % 4 == 0 else SENTENCES[20], model=faulty.FAULTY)

    def sound(channel: grpc.Channel) -> None:
        ask(channel, SENTENCES[20], model=faulty.FAULTY)

    def other(channel: grpc.Channel) -> None:
        ask(channel, SENTENCES[20], model=faulty.SOUND)

    flags = ("--models", str(tmp_path / "models"), "--workers", "1")
    with serve(tmp_path / "server", *flags) as server, watch(tmp_path / "watch", server.http_port) as watched:
        with traffic.sending(server.channel, [sometimes, other]):
            watched.wait_for("firing", "AttnserveFaultsFast", model=faulty.FAULTY)
            assert not watched.webhook.has("firing", "AttnserveFaultsFast", model=faulty.SOUND)
        with traffic.sending(server.channel, [sound, other]):
            watched.wait_for("resolved", "AttnserveFaultsFast", 60, model=faulty.FAULTY)
        eventually(lambda: server.scrape().total("attnserve_slots", state="used") == 0, "all slots free")
        server.assert_unharmed()


def test_quiet_server_is_not_reported(tmp_path: Path) -> None:
    """A load that a server serves leaves all alerts quiet."""
    with serve(tmp_path / "server", "--workers", "1") as server, watch(tmp_path / "watch", server.http_port) as watched:
        with traffic.sending(server.channel, [traffic.answered, traffic.streamed]):
            ratio = "attnserve:request_faults:ratio_rate1h == 0"
            eventually(
                lambda: len(watched.prometheus.query(f"count_over_time(({ratio})[8s:1s]) >= 8")) == 1, "8 s of load", 40, 0.5
            )
        assert watched.prometheus.query("ALERTS") == []
        assert watched.webhook.notified == []
