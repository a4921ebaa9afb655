# SPDX-License-Identifier: Apache-2.0
"""Prometheus and Alertmanager from Debian, on free ports of the loopback, and a webhook that collects what they report."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from deploy.prometheus.make_rules import rules_file
from tests.deploy.debian import unpacked
from tests.deploy.tools import required
from tests.e2e.serving import eventually

SCALE = 120
"""Durations of the rules are divided by it: five minutes are 2.5 s."""
SCRAPE = "500ms"
JOB = "attnserve"


def tools() -> Path:
    """The folder with the programs' files."""
    return unpacked("prometheus", "promtool", "prometheus-alertmanager")


def promtool() -> str:
    """Path of the program that checks and tests rules."""
    return str(tools() / "usr/bin/promtool")


def free_port() -> int:
    """A port of the loopback that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def plain_port(folder: Path) -> int:
    """The HTTP port without TLS of a server that was started in a folder (``tests.e2e.serving.serve``)."""
    return int(json.loads((folder / "ready.json").read_text(encoding="utf-8"))["plain_http_port"])


@dataclass
class Prometheus:
    """A running Prometheus."""

    port: int

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query that are numbers, with their labels (``metric``) and value."""
        data = urllib.parse.urlencode({"query": expression}).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query", data, timeout=30) as response:
                result = json.load(response)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        return [sample for sample in result if not math.isnan(float(sample["value"][1]))]

    def rule_errors(self) -> list[str]:
        """Rules whose last evaluation failed, and why."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/rules", timeout=30) as response:
            groups = json.load(response)["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert rules, "there are no rules"
        return [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]


class Webhook:
    """Collects the notifications of an Alertmanager."""

    def __init__(self) -> None:
        self.notified: list[tuple[str, str, dict[str, str]]] = []
        """Status ("firing", "resolved"), name and labels of each alert, in the order of arrival."""
        received = self.notified

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                received.extend((each["status"], each["labels"]["alertname"], each["labels"]) for each in message["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def has(self, status: str, alert: str, **labels: str) -> bool:
        """Whether an alert with these labels was notified as ``firing``, or was notified as ``resolved`` last."""
        statuses = [each[0] for each in list(self.notified) if each[1] == alert and labels.items() <= each[2].items()]
        return status in (statuses[-1:] if status == "resolved" else statuses)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Watch:
    """Prometheus with the scaled rules, an Alertmanager, and the webhook at its end."""

    prometheus: Prometheus
    webhook: Webhook

    def wait_for(self, status: str, alert: str, seconds: float = 40.0, **labels: str) -> float:
        """Waits until the webhook is told that an alert is ``firing`` or ``resolved``; returns the seconds it took."""
        return eventually(lambda: self.webhook.has(status, alert, **labels), f"{alert} {status}", seconds, 0.1)


@contextlib.contextmanager
def prometheus(folder: Path, ports: Sequence[int], alertmanager: int | None = None) -> Iterator[Prometheus]:
    """Starts Prometheus with the rules, scaled, and the servers' HTTP ports as targets; yields it once it has scraped them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rules.yml").write_text(rules_file(SCALE), encoding="utf-8")
    targets = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    managers = [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}] if alertmanager else []
    config = {
        "global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": SCRAPE},
        "rule_files": ["rules.yml"],
        "alerting": {"alertmanagers": managers},
        "scrape_configs": [{"job_name": JOB, "static_configs": targets}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    port, flags = free_port(), ("--config.file=prometheus.yml", "--storage.tsdb.path=data", "--rules.alert.resend-delay=1s")
    command = [str(tools() / "usr/bin/prometheus"), *flags, f"--web.listen-address=127.0.0.1:{port}"]
    with _running(folder / "prometheus.log", command, port):
        started = Prometheus(port)
        # Its first scrape is up to 5 s after its start, and an increase needs a sample from before it.
        scraped = "count_over_time(up[10s]) >= 2"
        eventually(lambda: len(started.query(scraped)) == len(ports), "all servers scraped", 40, 0.2)
        yield started


@contextlib.contextmanager
def alertmanager(folder: Path, webhook: int) -> Iterator[int]:
    """Starts an Alertmanager that tells a webhook of everything at once; yields its port once it is ready."""
    folder.mkdir(parents=True, exist_ok=True)
    receiver = {"name": "webhook", "webhook_configs": [{"url": f"http://127.0.0.1:{webhook}/", "send_resolved": True}]}
    times = {"group_wait": "100ms", "group_interval": "500ms", "repeat_interval": "1h"}
    config = {"route": {"receiver": "webhook", "group_by": ["..."], **times}, "receivers": [receiver]}
    (folder / "alertmanager.yml").write_text(json.dumps(config), encoding="utf-8")
    port = free_port()
    flags = ("--config.file=alertmanager.yml", "--storage.path=data", "--cluster.listen-address=")
    program = [str(tools() / "usr/bin/prometheus-alertmanager"), *flags, f"--web.listen-address=127.0.0.1:{port}"]
    with _running(folder / "alertmanager.log", [*_over_usr_share(tools() / "usr/share"), *program], port):
        yield port


@contextlib.contextmanager
def watch(folder: Path, *ports: int) -> Iterator[Watch]:
    """Starts all three for servers with these HTTP ports."""
    webhook = Webhook()
    try:
        with alertmanager(folder, webhook.port) as manager, prometheus(folder, ports, manager) as started:
            yield Watch(started, webhook)
    finally:
        webhook.close()


def _over_usr_share(files: Path) -> list[str]:
    """A prefix of a command that shows ``files`` in ``/usr/share`` to it alone: Debian's Alertmanager reads a template there."""
    required("unshare")
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = 'mount -t overlay overlay -o "lowerdir=$0:/usr/share" /usr/share && exec "$@"'
    return ["unshare", *rights, "--mount", "sh", "-c", script, str(files)]


@contextlib.contextmanager
def _running(log: Path, command: Sequence[str], port: int) -> Iterator[None]:
    """Runs a program in the folder of its log, until it answers that it is ready, and ends it."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 60
        while not _is_ready(port):
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < until, "not ready after 60 s: " + log.read_text(errors="replace")[-2000:]
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=2) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError):
        return False
