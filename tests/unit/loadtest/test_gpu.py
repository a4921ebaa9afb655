# SPDX-License-Identifier: Apache-2.0
"""How the checks of a GPU are run; what they find only a GPU can say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attnserve_loadtest.gpu import checks
from attnserve_loadtest.gpu.running import FAILED, PASSED, SKIPPED, Skip, exit_code, floor_s, run_checks
from attnserve_server.bundle.loader import load_bundle
from attnserve_server.request import FinishReason, Hypothesis
from tests.parity.driving import DEFAULT_BUNDLE
from tests.unit.engine.fakes import Clock


def passing(figures: dict[str, Any]) -> None:
    figures["ms"] = 1.5


def failing(figures: dict[str, Any]) -> None:
    figures["identical"] = 0.4
    raise AssertionError("not as on the CPU")


def broken(figures: dict[str, Any]) -> None:
    raise RuntimeError("cuda error 700")


def missing(figures: dict[str, Any]) -> None:
    raise Skip("no PyTorch here")


def test_a_failure_stops_nothing_and_is_the_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    results = run_checks({"a": failing, "b": broken, "c": missing, "d": passing}, path, 60)
    assert [result.status for result in results] == [FAILED, FAILED, SKIPPED, PASSED]
    assert exit_code(results) == 1
    assert exit_code(results[2:]) == 0
    written = json.loads(path.read_text())
    assert [each["figures"] for each in written] == [{"identical": 0.4}, {}, {}, {"ms": 1.5}]
    assert "not as on the CPU" in written[0]["error"]
    assert "cuda error 700" in written[1]["error"]


def test_the_report_is_written_after_every_check(tmp_path: Path) -> None:
    path, seen = tmp_path / "report.json", list[int]()
    look = {"second": lambda figures: seen.append(len(json.loads(path.read_text())))}
    run_checks({"first": passing, **look}, path, 60)
    assert seen == [1]


def test_nothing_is_begun_after_the_budget(tmp_path: Path) -> None:
    clock = Clock()

    def slow(figures: dict[str, Any]) -> None:
        clock.now += 50

    results = run_checks({"a": slow, "b": slow, "c": slow}, tmp_path / "r.json", 60, clock)
    assert [result.status for result in results] == [PASSED, PASSED, SKIPPED]
    assert results[0].seconds == 50


def test_floor_grows_with_the_rows() -> None:
    bundle = load_bundle(DEFAULT_BUNDLE)
    one, many = (checks.step_bytes(bundle, rows) for rows in (1, 64))
    weights = (DEFAULT_BUNDLE / "weights.bin").stat().st_size
    assert weights < one < many < 3 * weights
    assert floor_s(2e12, 1e12) == 2.0


def test_a_machine_without_a_gpu_says_so() -> None:
    done = subprocess.run([sys.executable, "-m", "attnserve_loadtest.gpu"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("no GPU: this ONNX Runtime has no CUDA provider")


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_parity_is_a_bar_that_can_be_missed(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """With made-up answers in place of the engines': half of them others."""
    context = checks.Context(DEFAULT_BUNDLE.parents[1], ["a"] * 10)
    monkeypatch.setattr(context.__class__, "bundles", lambda self: [(DEFAULT_BUNDLE, ["fp16"])])
    monkeypatch.setattr(context.__class__, "engine", lambda self, path, device, variant, **_: device)
    good, bad = (Hypothesis([token, 3], -1.0, FinishReason.STOP) for token in (5, 6))
    num_good = int(10 * share)
    answers = {"cpu": [good] * 10, "cuda": [good] * num_good + [bad] * (10 - num_good)}
    monkeypatch.setattr(checks, "translate", lambda engine, *_: answers[engine])
    figures: dict[str, Any] = {}
    if share == 1.0:
        checks.parity(context, figures)
    else:
        with pytest.raises(AssertionError, match="transformer-en-de fp16 beam 1"):
            checks.parity(context, figures)
    assert figures["transformer-en-de fp16 beam 5"]["identical"] == share
