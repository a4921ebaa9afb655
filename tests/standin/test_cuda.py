# SPDX-License-Identifier: Apache-2.0
"""The CUDA path on a machine without a GPU: the real onnxruntime-gpu over stand-in CUDA libraries.

onnxruntime-gpu cannot be installed beside onnxruntime, so it has a separate environment, made once in ``.standin`` at the root of
the repository, and each check is a process. All other packages come from the environment of the tests. The checks test ONNX
Runtime's calls of CUDA, not values.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from attnserve_loadtest.gpu.__main__ import CHECKS
from attnserve_loadtest.gpu.context import DEFAULT_MODEL
from attnserve_loadtest.gpu.results import SUMMARY
from attnserve_loadtest.gpu.table import MOST_LINES
from attnserve_server.bundle.loader import find_bundles, load_bundle
from tests.standin.build import SOURCE, build
from tests.standin.models import copy_with_cuda_graphs, without_cudnn
from tests.standin.passes import UNCAPTURED, write_bundle

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "deploy" / "models"
MODEL_IDS = {is_single: [] for is_single in (False, True)}
"""By whether they run in a single pass."""
for _bundle in find_bundles(MODELS):
    MODEL_IDS[load_bundle(_bundle).manifest.HasField("single_pass")].append(_bundle.parent.name)
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
CACHE = ROOT / ".standin"
PACKAGES = ["onnxruntime-gpu==1.31.1"]


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
    site = next(venv.glob("lib/python3*/site-packages"))
    (site / "tests_environment.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")


@pytest.mark.parametrize("check", ["placement", "steps", "feeds", "state"])
def test_cuda(environment: tuple[Path, Path], check: str) -> None:
    run_check(environment, check, ROOT / "deploy" / "models" / "transformer-en-de" / "1")


@pytest.mark.parametrize("model", MODEL_IDS[True])
def test_single_pass_graphs_of_every_bundle_are_placed_on_cuda(environment: tuple[Path, Path], model: str) -> None:
    (bundle,) = (ROOT / "deploy" / "models" / model).iterdir()
    run_check(environment, "pass_placement", bundle)


@pytest.mark.parametrize("model_id", ["captured", UNCAPTURED])
def test_single_pass_graphs_are_captured_where_they_can_be(environment: tuple[Path, Path], tmp_path: Path, model_id: str) -> None:
    output = run_check(environment, "passes", write_bundle(tmp_path, model_id))
    assert ("runs without CUDA graphs" in output) == (model_id == UNCAPTURED)


def run_check(environment: tuple[Path, Path], check: str, bundle: Path) -> str:
    python, libraries = environment
    paths = os.pathsep.join([str(ROOT), str(ROOT / "server"), str(ROOT / "protos")])
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
    return result.stdout


@dataclass(frozen=True, slots=True)
class StandIns:
    """Runs ``make gpu-check`` over the stand-ins."""

    python: Path
    libraries: Path
    models: Path

    def check(self, report: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, dict[str, Any]]]:
        """The process that has ended, and the results by name."""
        paths = os.pathsep.join(str(ROOT / each) for each in ("protos", "export", "server", "clients/python", "loadtest"))
        command = [self.python, "-m", "attnserve_loadtest.gpu", "--models", self.models, "--out", report, "--sentences", "12"]
        result = subprocess.run(
            [*command, "--limits-times", "15", "--budget-seconds", "1500", *arguments],
            env={**os.environ, "LD_LIBRARY_PATH": str(self.libraries), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1700,
            check=False,
        )
        return result, {each["name"]: each for each in json.loads(report.read_text())}


@pytest.fixture(scope="module")
def stand_ins(environment: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    """All bundles; encoders that need cuDNN are graphs of the same interface in their CUDA variants."""
    models = tmp_path_factory.mktemp("models")
    for bundle in find_bundles(MODELS):
        copy_with_cuda_graphs(bundle, models, without_cudnn)
    (models / "defaults.toml").write_bytes((MODELS / "defaults.toml").read_bytes())
    return StandIns(*environment, models)


@pytest.fixture(scope="module")
def rehearsal(stand_ins: StandIns, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, dict[str, Any]], Path]:
    """The output, the results and the folder of one run of all checks, whose values are not compared."""
    folder = tmp_path_factory.mktemp("gpu")
    process, results = stand_ins.check(folder / "report.json", "--without-values")
    assert process.returncode == 0, process.stdout + (folder / "report.log").read_text()[-5000:]
    return process.stdout, results, folder


def test_every_check_of_gpu_check_runs_to_its_end(rehearsal: tuple[str, dict[str, dict[str, Any]], Path]) -> None:
    """PyTorch and CTranslate2 run on the CPU; all else runs as on a GPU."""
    output, results, folder = rehearsal
    assert {name: each["status"] for name, each in results.items()} == {check.name: "passed" for check in CHECKS}, output
    assert sorted(each.name for each in folder.iterdir()) == ["report.json", "report.log"]
    closing = output.rpartition(" s\nenvironment")[2].splitlines()
    assert len(closing) <= MOST_LINES + 1, output


@pytest.mark.parametrize("model", MODEL_IDS[False])
def test_every_bundle_is_rehearsed(rehearsal: tuple[str, dict[str, dict[str, Any]], Path], model: str) -> None:
    figures = {name: each["figures"] for name, each in rehearsal[1].items()}
    steps, parity = ("steps", "parity") if model == DEFAULT_MODEL else ("steps-others", "parity-others")
    for check, kinds in {
        parity: ["beam 1", "beam 5"],
        "graphs": [""],
        "invariance": ["beam 1", "beam 4"],
        "moves": [""],
        "captures": [""],
        steps: ["64 slots, beam 1, 64 rows", "64 slots, beam 4, 64 rows"],
        "throughput": ["64 slots, beam 1", "64 slots, beam 4"],
    }.items():
        for kind in kinds:
            assert any(name.startswith(model) and name.endswith(kind) for name in figures[check]), (check, kind)
    for entry in (each for name, each in figures[steps].items() if name.startswith(model)):
        assert min(entry["graph_ms"], entry["plain_ms"]) > 0
        assert None not in (entry["floor_ms"], entry["bytes_ms"], entry["over_floor"])
        assert 25 < entry["kernels"] < 140
    moves = next(each for name, each in figures["moves"].items() if name.startswith(model))
    assert moves.keys() >= {"encode 1", "encode 64", "insert 8", "copy 16 rows", "move a request"}


@pytest.mark.parametrize("model", MODEL_IDS[True])
def test_every_single_pass_bundle_is_rehearsed(rehearsal: tuple[str, dict[str, dict[str, Any]], Path], model: str) -> None:
    found = {name: each for name, each in rehearsal[1]["passes"]["figures"].items() if name.startswith(model)}
    assert found.keys() == {f"{model} fp16", f"{model} fp32"}
    for entry in found.values():
        assert entry["start_s"] >= 0
        assert {name for each in entry["ms_an_input"].values() for name in each} == {"graph", "plain", "torch"}
    served = rehearsal[1]["served-passes"]["figures"][model]
    assert 0 < served["load_s"] < served["start_s"]
    assert served["answers"] > 0
    assert served["ms"] > 0


def test_the_default_model_is_measured_at_all_slots_and_served(rehearsal: tuple[str, dict[str, dict[str, Any]], Path]) -> None:
    figures = {name: each["figures"] for name, each in rehearsal[1].items()}
    for slots in (64, 256, 1024):
        for beam in (1, 4):
            assert f"{DEFAULT_MODEL} fp16, {slots} slots, beam {beam}, {slots} rows" in figures["steps"]
            assert figures["throughput"][f"{DEFAULT_MODEL} fp16, {slots} slots, beam {beam}"]["tokens_a_second"] > 0
    for clients in (1, 32, 256):
        unary, stream = (figures["served"][f"{clients} clients, {method}"] for method in ("Translate", "TranslateStream"))
        assert unary.keys() | {"ttft_p50_ms", "ttft_p99_ms"} == stream.keys()
        assert 0 < stream["ttft_p50_ms"] <= stream["p50_ms"]
        assert unary.keys() >= {"requests_a_second", "tokens_a_second", "p99_ms", "cpu_ms_a_request_front"}
    assert figures["captures"][f"{DEFAULT_MODEL} fp16"]["attention_kernels"] == {"GroupQueryAttention FLASH_ATTENTION": 8}
    assert [figures[name].keys() for name in ("torch", "compiled")] == [{"1 rows", "64 rows", SUMMARY}] * 2
    assert figures["floor"]["device"] == "cpu"


def test_parity_with_values_fails_for_every_bundle(stand_ins: StandIns, tmp_path: Path) -> None:
    """Kernels that compute nothing give other answers than the CPU, so parity must fail; it would pass if both sides were the CPU."""
    checks = ("parity", "parity-others", "passes", "served-passes")
    process, results = stand_ins.check(tmp_path / "report.json", *(part for name in checks for part in ("--only", name)))
    assert process.returncode == 1, process.stdout
    assert [results[name]["status"] for name in checks] == ["failed"] * 4
    for model in (*MODEL_IDS[False], *MODEL_IDS[True]):
        assert f"{model} fp" in "".join(results[name]["error"] for name in checks), process.stdout
