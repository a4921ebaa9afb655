# SPDX-License-Identifier: Apache-2.0
"""Every expression of rules and dashboard has data in a Prometheus that scrapes a server under a small load."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

import grpc
import pytest

from deploy.grafana.panels import ROWS
from deploy.prometheus.alerts import ALERTS
from deploy.prometheus.make_rules import scaled_ranges
from deploy.prometheus.recordings import RECORDINGS
from tests.deploy import traffic
from tests.deploy.prometheus import SCALE, Prometheus, plain_port, prometheus
from tests.e2e import captioning
from tests.e2e.serving import serve
from tests.fakes.trust import Files

VARIABLES = {"$job": ".*", "$instance": ".*", "$model": ".*", "$__rate_interval": "2500ms"}
"""What Grafana puts in their place; its interval is four scrapes at least."""

ONLY_ON_A_GPU = "attnserve_device_memory_"
SECONDS = 60.0


def expressions() -> dict[str, str]:
    """All expressions by a name of theirs; of an alert, what it compares, which has a value also while nothing is wrong."""
    found = {rule.name: scaled_ranges(rule.expression, SCALE) for rule in RECORDINGS}
    for alert in ALERTS:
        conditions = [condition for group in alert.any_of for condition in group]
        found |= {f"{alert.name} {number}": scaled_ranges(each.value, SCALE) for number, each in enumerate(conditions)}
    for row in ROWS:
        for panel in row.panels:
            found |= {f"{panel.title} {number}": filled(query.expression) for number, query in enumerate(panel.queries)}
    return found


def filled(expression: str) -> str:
    """An expression of the dashboard as Grafana sends it."""
    return re.sub(r"\$\w+", lambda found: VARIABLES[found[0]], expression)


def without_data(prometheus: Prometheus, asked: dict[str, str], seconds: float = SECONDS) -> list[str]:
    """Names of the expressions that had no data at any time within ``seconds``."""
    missing, until = dict(asked), time.monotonic() + seconds
    while missing and time.monotonic() < until:
        missing = {name: expression for name, expression in missing.items() if not prometheus.query(expression)}
        time.sleep(0.5)
    return sorted(missing)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, and a server with TLS, a cache and three models under load: a part of each kind of request that it counts."""
    folder = tmp_path_factory.mktemp("watched")
    files = Files(folder)
    models = captioning.repository(folder, captioning.MODEL, "transformer-en-de", "cbam-cifar10")
    flags = ("--models", str(models), "--workers", "1", "--slots", "4", "--queue-limit", "8")
    cache = ("--cache-bytes", "1")  # each answer is too large for it
    tls = ("--tls-cert", str(files.chain), "--tls-key", str(files.key))
    requests: Sequence[traffic.Request] = (
        *(
            traffic.answered,
            traffic.streamed,
            traffic.caption,
            traffic.classified,
            traffic.of_no_model,
            traffic.empty,
            traffic.late,
            traffic.left,
        ),
        traffic.burst(30),
    )
    with serve(folder / "server", *flags, *cache, *tls, environment={"ATTNSERVE_HTTP_PLAIN_PORT": "0"}) as server:
        port = plain_port(folder / "server")

        def channel() -> grpc.Channel:
            return grpc.secure_channel(server.target, files.credentials())

        with prometheus(folder / "prometheus", [port]) as started, traffic.sending(channel, requests):
            yield started


def test_every_expression_has_data(watched: Prometheus) -> None:
    asked = {name: expression for name, expression in expressions().items() if ONLY_ON_A_GPU not in expression}
    assert len(asked) > 80
    assert without_data(watched, asked) == []


def test_only_devices_need_a_gpu() -> None:
    names = [name for name, expression in expressions().items() if ONLY_ON_A_GPU in expression]
    assert names == ["AttnserveDeviceMemoryRunsOut 0", "Device memory 0", "Device memory 1"]


def test_rules_are_evaluated_without_an_error(watched: Prometheus) -> None:
    assert watched.rule_errors() == []


def test_expression_without_data_is_named(watched: Prometheus) -> None:
    asked = {
        "good": "attnserve_queue_length",
        "empty": 'attnserve_queue_length{model="none"}',
        "no number": "0 * attnserve_queue_length / 0",
    }
    assert without_data(watched, asked, 2.0) == ["empty", "no number"]
