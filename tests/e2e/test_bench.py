# SPDX-License-Identifier: Apache-2.0
"""The bench on a few sentences: it runs, compares answers, and writes its files. No ratio is checked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def bench(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attnserve_loadtest.bench", "--limit", "12", "--rounds", "1", "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    print(done.stdout[-3000:], done.stderr[-3000:])
    return done


def test_offline(tmp_path: Path) -> None:
    done = bench(tmp_path, "--part", "offline", "--point", "fp32")
    assert done.returncode == 0
    values = json.loads((tmp_path / "bench.json").read_text())
    assert [row["name"] for row in values["rows"]] == ["greedy offline, fp32", "batch 1, fp32", "beam 4, fp32"]
    assert all(row["value"]["median"] > 0 for row in values["rows"])
    assert [point["identical"] for point in values["points"]] == [1.0, 1.0, 1.0], "fp32 answers are not the peer's"
    assert "| beam 4, fp32 |" in (tmp_path / "bench.md").read_text()


@pytest.mark.long
def test_servers(tmp_path: Path) -> None:
    done = bench(tmp_path, "--part", "online", "--part", "wire", "--requests", "100")
    assert done.returncode == 0
    values = json.loads((tmp_path / "bench.json").read_text())
    assert [row["name"].split(",")[0] for row in values["rows"]] == [
        "highest rate with p99 <= 50 ms",
        *("through gRPC", "through gRPC"),
        *("front's processor time", "front's processor time"),
    ]
    assert values["online"]["ours"]["rate"] > 0
    assert values["wire"]["front_unary"]["median"] > 0
    assert isinstance(values["machine"]["bars_hold"], bool)
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    assert bench(tmp_path, "--part", "sideways").returncode == 2
    done = bench(tmp_path, "--data", str(tmp_path / "nothing"), "--part", "offline")
    assert done.returncode == 1
    assert "nothing" in done.stderr
    done = bench(tmp_path, "--model", str(tmp_path / "no-bundle"), "--part", "offline")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
