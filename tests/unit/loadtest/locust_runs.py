# SPDX-License-Identifier: Apache-2.0
"""Short runs of Locust's users against a fake server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from attnserve_loadtest import images
from tests.fakes.server import FakeServer

LOCUSTFILE = Path(images.__file__).with_name("locustfile.py")


def run_users(server: FakeServer, results: Path, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Runs three users for four seconds, with the objective that all requests are answered; returns exit code and rows by event."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary", "--host", server.address]
    command += ["--users", "3", "--spawn-rate", "3", "--run-time", "4s", "--results", str(results), "--slo", "errors<0.1"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=100, check=False)
    print(done.stderr[-3000:])
    return done.returncode, {row["event"]: row for row in json.loads((results / "loadtest.json").read_text())["events"]}
