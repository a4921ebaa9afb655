# SPDX-License-Identifier: Apache-2.0
"""The blocking client is what ``make_sync.py`` makes of the client for asyncio, and a change of either alone is seen."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("clients/python")


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / FOLDER / "make_sync.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


def test_blocking_client_is_generated_from_the_client_for_asyncio() -> None:
    done = check(ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("edited", "stale"), [("client.py", "client.py"), ("aio_connection.py", "sync_connection.py")])
def test_change_of_one_twin_alone_is_seen(tmp_path: Path, edited: str, stale: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / FOLDER, tmp_path / FOLDER)
    with (tmp_path / FOLDER / "attnserve_client" / edited).open("a", encoding="utf-8") as file:
        file.write('\n\nPLANTED = "only here"\n')
    done = check(tmp_path)
    assert done.returncode == 1
    assert f": {stale};" in done.stderr
