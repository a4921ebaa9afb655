# SPDX-License-Identifier: Apache-2.0
"""Runs a server and one command after another without a network: ``unshare -n -m PYTHON offline.py HOME MODELS COMMANDS``.

Only the loopback is up, and HOME is an empty file system that cannot be written. COMMANDS is a JSON list of lists of arguments. Prints
one JSON list for each command: its exit code, its output, its errors. The server's end is the last one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.e2e.serving import serve

SERVER_PID = "SERVER_PID"
"""An argument that stands for the process id of the server."""


def main(home: str, models: str, commands: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", home], check=True)
    os.environ["HOME"] = home
    with tempfile.TemporaryDirectory() as folder:
        with serve(Path(folder), "--models", models, "--workers", "1") as server:
            for arguments in json.loads(commands):
                given = [str(server.process.pid) if each == SERVER_PID else each for each in arguments]
                program = [sys.executable, "-m", "attnserve_client.cli", *given]
                environment = {**os.environ, "ATTNSERVE_ADDRESS": server.target}
                done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=100)
                print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)
        print(json.dumps([server.process.returncode, "", server.tail()]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
