# SPDX-License-Identifier: Apache-2.0
"""The CUDA path on a machine without a GPU: the real onnxruntime-gpu over stand-in CUDA libraries.

onnxruntime-gpu cannot stand beside onnxruntime, so it has an environment of its own, made once in ``.standin`` at the root of the
repository, and each check is a process. What the checks show is what ONNX Runtime asks of CUDA: no number is looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.standin.build import SOURCE, build

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".standin"
PACKAGES = ["onnxruntime-gpu==1.31.1", "numpy>=2.0", "protobuf>=6.30", "msgspec>=0.19", "sentencepiece>=0.2.3"]


@pytest.fixture(scope="module")
def environment() -> tuple[Path, Path]:
    """The interpreter and the folder of the libraries."""
    venv, libraries = CACHE / "venv", CACHE / "lib"
    _once(venv / "packages", "\n".join([sys.version, *PACKAGES]), lambda: _install(venv))
    stamp = SOURCE.read_bytes() + Path(build.__code__.co_filename).read_bytes()
    _once(libraries / "sources", hashlib.sha256(stamp).hexdigest(), lambda: build(venv, libraries))
    return venv / "bin" / "python", libraries


def _once(stamp: Path, text: str, make: Callable[[], None]) -> None:
    if not stamp.exists() or stamp.read_text() != text:
        make()
        stamp.write_text(text)


def _install(venv: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, *PACKAGES], check=True)


@pytest.mark.parametrize("check", ["placement", "steps", "feeds", "state"])
def test_cuda(environment: tuple[Path, Path], check: str) -> None:
    python, libraries = environment
    bundle = ROOT / "deploy" / "models" / "transformer-en-de" / "1"
    paths = os.pathsep.join([str(ROOT / "server"), str(ROOT / "protos")])
    result = subprocess.run(
        [python, Path(__file__).parent / "checks.py", check, bundle],
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert result.stdout.rstrip().endswith("ok"), result.stdout


def test_gpu_check(environment: tuple[Path, Path], tmp_path: Path) -> None:
    """All of ``make gpu-check`` that needs nothing but ONNX Runtime, with values that nobody looks at."""
    python, libraries = environment
    models, report = tmp_path / "models", tmp_path / "report.json"
    models.mkdir()
    (models / "transformer-en-de").symlink_to(ROOT / "deploy" / "models" / "transformer-en-de")
    paths = os.pathsep.join(str(ROOT / each) for each in ("protos", "export", "server", "clients/python", "loadtest"))
    command = [python, "-m", "attnserve_loadtest.gpu", "--without-values", "--models", models, "--sentences", "12", "--out", report]
    result = subprocess.run(
        command,
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout + report.read_text()
    found = {each["name"]: each for each in json.loads(report.read_text())}
    statuses = {name: each["status"] for name, each in found.items()}
    assert statuses == {
        "environment": "passed",
        "parity": "passed",
        "graphs": "passed",
        "steps": "passed",
        "pytorch": "skipped",
        "throughput": "passed",
        "served": "skipped",
    }, report.read_text()
    steps = found["steps"]["figures"]["transformer-en-de fp16"]
    assert all(steps[f"{rows} rows"]["graph_ms"] > 0 for rows in (1, 2, 4, 8, 16, 32, 64))
