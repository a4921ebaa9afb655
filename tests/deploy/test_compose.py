# SPDX-License-Identifier: Apache-2.0
"""The Compose project, brought up by the real Compose: the server, Prometheus with the rules, and Locust.

No registry of images can be reached here. Prometheus' image is made of Debian's Prometheus, under the name that the project gives;
Grafana is not run, Compose only checks its part.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.containers import BASE, ROOT, Engine, build, eventually
from tests.deploy.debian import unpacked
from tests.deploy.serving import await_ready, command, tasks_answered

FOLDER = ROOT / "deploy/compose"
PROMETHEUS_FILE = f"""FROM {BASE}
COPY prometheus /bin/prometheus
RUN mkdir /prometheus && chown 65534:65534 /prometheus
USER 65534
ENTRYPOINT ["/bin/prometheus"]
"""
Compose = Callable[..., str]


def docker_compose() -> Path:
    return unpacked("docker-compose") / "usr/libexec/docker/cli-plugins/docker-compose"


def project() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def locust_image(containers: Engine, image: str) -> str:
    return build(containers, ROOT / "deploy/docker/Dockerfile", "attnserve-locust:test", "--target", "locust")


@pytest.fixture(scope="module")
def prometheus_image(containers: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copy(unpacked("prometheus", "promtool", release="forky") / "usr/bin/prometheus", folder)
    (folder / "Dockerfile").write_text(PROMETHEUS_FILE, encoding="utf-8")
    name = project()["services"]["prometheus"]["image"]
    made = build(containers, folder / "Dockerfile", "prometheus:test", context=folder)
    containers.buildah("tag", made, name)
    return str(name)


@pytest.fixture(scope="module")
def compose(containers: Engine, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """Runs a command of Compose on the project, with this checkout's images."""
    folder = tmp_path_factory.mktemp("compose")
    environment = {
        "ATTNSERVE_IMAGE": image,
        "ATTNSERVE_LOCUST_IMAGE": "localhost/attnserve-locust:test",
        "ATTNSERVE_ENGINE_WORKERS": "1",
        "HOME": str(folder),
    }
    with containers.socket(folder) as address:

        def run(*arguments: str) -> str:
            words = [docker_compose(), "--project-directory", FOLDER, *arguments]
            done = containers.ask(*words, environment={**environment, "DOCKER_HOST": address}, timeout=180)
            assert done.returncode == 0, f"compose {arguments}: {done.stdout}{done.stderr}"
            return done.stdout

        yield run
        run("--profile", "load", "down", "--volumes", "--timeout", "0")


@pytest.fixture(scope="module")
def started(containers: Engine, compose: Compose, prometheus_image: str) -> Compose:
    compose("up", "--detach", "--no-build", "--pull", "never", "server", "prometheus")
    await_ready(containers, "127.0.0.1:8001", "attnserve-server-1")
    return compose


def ask(containers: Engine, path: str) -> Any:
    """An answer of Prometheus' API; none while it starts."""
    status, body = containers.get(f"http://127.0.0.1:9090/api/v1/{path}")
    return json.loads(body)["data"] if status == 200 else {}


def value(containers: Engine, query: str) -> float:
    """The value of an instant query; 0 without a series."""
    found = ask(containers, f"query?query={query}").get("result") or [{"value": [0, "0"]}]
    return float(found[0]["value"][1])


def test_all_files_are_valid(compose: Compose) -> None:
    compose("--profile", "load", "config", "--quiet")
    compose("--file", str(FOLDER / "compose.yaml"), "--file", str(FOLDER / "compose.gpu.yaml"), "config", "--quiet")


def test_mounted_files_are_there() -> None:
    """Docker makes a folder of a file that is missing; Grafana and Prometheus would then start without it."""
    mounts = [mount for service in project()["services"].values() for mount in service.get("volumes", ()) if mount.startswith(".")]
    assert len(mounts) >= 5
    assert [mount for mount in mounts if not (FOLDER / mount.partition(":")[0]).is_file()] == []


def test_every_port_is_on_the_loopback() -> None:
    ports = [port for service in project()["services"].values() for port in service.get("ports", ())]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_dashboards_folder_and_data_source_are_those_that_are_mounted() -> None:
    (provider,) = yaml.safe_load((FOLDER / "grafana/dashboards.yml").read_text(encoding="utf-8"))["providers"]
    (source,) = yaml.safe_load((FOLDER / "grafana/datasources.yml").read_text(encoding="utf-8"))["datasources"]
    mounts = project()["services"]["grafana"]["volumes"]
    assert any(f":{provider['options']['path']}/" in mount for mount in mounts)
    assert source["url"] == "http://prometheus:9090"


def test_server_of_the_project_answers_without_privileges(containers: Engine, started: Compose) -> None:
    assert tasks_answered(containers, "127.0.0.1:8001") >= {"translation", "caption"}
    status = containers.podman("exec", "attnserve-server-1", "cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status and "Uid:\t10001" in status and "NoNewPrivs:\t1" in status
    assert "Read-only file system" in containers.podman("exec", "attnserve-server-1", "touch", "/x", is_checked=False)


def test_prometheus_scrapes_the_server_and_has_the_rules(containers: Engine, started: Compose) -> None:
    command(containers, "127.0.0.1:8001", "translate", "A dog.")
    eventually(lambda: value(containers, "sum(attnserve_requests_total)") > 0, "Prometheus has a request of the server", 60)
    (up,) = ask(containers, "query?query=up")["result"]
    assert (up["metric"]["job"], up["value"][1]) == ("attnserve", "1")
    groups = ask(containers, "rules")["groups"]
    committed = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text(encoding="utf-8"))["groups"]
    assert {group["name"] for group in groups} == {group["name"] for group in committed}
    assert sum(len(group["rules"]) for group in groups) == sum(len(group["rules"]) for group in committed)


def test_locust_loads_the_server(containers: Engine, started: Compose, locust_image: str) -> None:
    arguments = ["--headless", "--users", "14", "--spawn-rate", "14", "--run-time", "4s", "--only-summary"]
    started("--profile", "load", "run", "--rm", "-T", "locust", "--host", "server:8001", *arguments)
    log = containers.podman("logs", "attnserve-server-1", is_checked=False)
    methods = {json.loads(line).get("method") for line in log.splitlines() if line.startswith("{")}
    assert methods >= {"Translate", "TranslateStream", "Caption"}, log[-2000:]


def test_project_goes_down_with_a_drain(containers: Engine, started: Compose) -> None:
    """Last: it stops the server."""
    started("stop", "server")
    assert containers.inspect("attnserve-server-1", ".State.ExitCode") == "0"
    assert "draining" in containers.podman("logs", "attnserve-server-1", is_checked=False)
