# SPDX-License-Identifier: Apache-2.0
"""Runs of pytest that a test starts in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m`` with these arguments in a folder, with this repository's packages.

    Of pytest's and this project's variables it has only those that are given: not that of a second run, nor of a worker of xdist.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ATTNSERVE_", "PYTEST_"))}
    environ = {**kept, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=60)
