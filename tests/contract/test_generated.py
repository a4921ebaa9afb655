# SPDX-License-Identifier: Apache-2.0
"""Generated files are the output of their scripts, and a change of only the source or only the output is detected.

They are the blocking client (``make_sync.py``) and the API reference (``make_api.py``).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("clients/python")


def check(root: Path, script: str = "make_sync.py") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / FOLDER / script), "--check"]
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


def test_api_reference_is_generated_from_protos_and_client() -> None:
    done = check(ROOT, "make_api.py")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("edited", ["docs/api.md", "protos/attnserve/v1/caption.proto"])
def test_change_of_page_or_proto_alone_is_seen(tmp_path: Path, edited: str) -> None:
    for folder in ("protos", "docs", str(FOLDER)):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    file = tmp_path / edited
    file.write_text(file.read_text(encoding="utf-8").replace("One image to describe.", "One picture."), encoding="utf-8")
    done = check(tmp_path, "make_api.py")
    assert done.returncode == 1
    assert done.stderr == "docs/api.md differs from the protos and docstrings; run make docs\n"
