# SPDX-License-Identifier: Apache-2.0
"""How the GPU checks are run and reported; their results need a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from attnserve_loadtest.gpu import __main__ as command
from attnserve_loadtest.gpu import running
from attnserve_loadtest.gpu.__main__ import CHECKS, FIRST
from attnserve_loadtest.gpu.results import (
    FAILED,
    NO_DEVICE,
    PARTIAL,
    PASSED,
    RUNNING,
    SKIPPED,
    SUMMARY,
    Figures,
    Result,
    load,
    note,
    reason,
    save,
)
from attnserve_loadtest.gpu.running import Check, exit_code, run_checks
from attnserve_loadtest.gpu.table import MOST_COLUMNS, MOST_LINES, table
from attnserve_server.config import load_config
from tests.fakes.clock import Clock
from tests.unit.loadtest import gpu_children

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {"models": str(ROOT / "deploy" / "models"), "sentences": ["a"]}


def run(path: Path, *names: str, limit_s: float = 60, is_optional: bool = False, budget_s: float = 100) -> list[Result]:
    checks = [Check(name, f"{gpu_children.MODULE}:{name}", limit_s, is_optional) for name in names]
    return run_checks(checks, path, SETTINGS, budget_s)


@pytest.fixture(autouse=True)
def _children_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))


def test_a_check_that_crashes_affects_no_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    results = run(path, "failing", "crashing", "exiting", "missing", "passing")
    assert [result.status for result in results] == [FAILED, FAILED, FAILED, SKIPPED, PASSED]
    assert [result.figures for result in results] == [{"identical": 0.4}, {"before": 1}, {}, {}, {"ms": 1.5}]
    assert results[0].error.splitlines()[-1] == "AssertionError: not as on the CPU"
    assert results[1].error.splitlines()[-1] == "its process was ended by SIGSEGV"
    assert results[2].error.splitlines() == ["cuda error 700", "its process ended with exit code 3"]
    assert json.loads(path.read_text())[4]["figures"] == {"ms": 1.5}
    assert sorted(each.name for each in path.parent.iterdir()) == ["report.json", "report.log"]
    assert exit_code(results) == 1
    assert exit_code(results[3:]) == 0


@pytest.mark.load
def test_a_check_that_hangs_is_killed_at_its_limit_with_all_that_it_started(tmp_path: Path) -> None:
    results = run(tmp_path / "report.json", "hanging", "passing", limit_s=8)
    assert 8 <= results[0].seconds < 25
    assert [result.status for result in results] == [FAILED, PASSED]
    assert results[0].error.endswith("it ran longer than its limit of 8 s and was killed")
    assert _ends(results[0].figures["server"])


def _ends(pid: int) -> bool:
    """Whether there is soon no such process, or it is a zombie: one that was killed ends when the system runs it."""
    until = time.monotonic() + 30
    while _is_there(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_run_that_is_terminated_ends_the_check_that_runs(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    code = (
        "from pathlib import Path; from attnserve_loadtest.gpu.running import Check, end_on_sigterm, run_checks; end_on_sigterm();"
        f"run_checks([Check('hanging', '{gpu_children.MODULE}:hanging', 600)], Path({str(path)!r}), {SETTINGS!r}, 600)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while not (path.exists() and (found := load(path)) and found[0].figures):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        assert process.wait(60) == 128 + 15
    assert _ends(found[0].figures["server"])


def test_what_may_be_missing_is_skipped_when_it_fails(tmp_path: Path) -> None:
    results = run(tmp_path / "report.json", "exiting", "failing", is_optional=True)
    assert [result.status for result in results] == [SKIPPED, SKIPPED]
    assert results[0].error.endswith("exit code 3")
    assert exit_code(results) == 0


def test_without_a_device_no_further_check_is_started(tmp_path: Path) -> None:
    results = run(tmp_path / "report.json", "deviceless", "passing")
    assert [(result.status, result.error) for result in results] == [
        (NO_DEVICE, "the driver is too old"),
        (SKIPPED, "there is no device"),
    ]
    assert exit_code(results) == 2


def test_a_check_stops_by_itself_when_its_time_is_nearly_over(tmp_path: Path) -> None:
    (result,) = run(tmp_path / "report.json", "cut")
    assert (result.status, result.error) == (PARTIAL, "no time was left for: b, c")
    assert result.figures == {"a": True, "not measured": ["b", "c"]}
    assert exit_code([result]) == 1


def test_limits_are_cut_to_the_budget_and_nothing_is_begun_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, limits = Clock(), list[float]()

    def slow(check: Check, _report: Path, _settings: Any, limit_s: float) -> Result:
        limits.append(limit_s)
        clock.now += min(50, limit_s)
        return Result(check.name, PASSED)

    monkeypatch.setattr(running, "_run", slow)
    checks = [Check(name, "", 55) for name in "abc"]
    results = run_checks(checks, tmp_path / "r.json", SETTINGS, 100, clock)
    assert limits == [55, 50]
    assert [(result.status, result.seconds) for result in results] == [(PASSED, 50), (PASSED, 50), (SKIPPED, 0)]
    assert results[2].error == "the budget of 100 s is spent"


def test_each_figure_is_in_the_report_at_once(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    save(path, [Result("first", PASSED)])
    figures = Figures(path, "second")
    assert [(each.name, each.status) for each in load(path)] == [("first", PASSED), ("second", RUNNING)]
    figures["ms"] = 1.5
    assert load(path)[1].figures == {"ms": 1.5}


def test_a_reader_never_finds_half_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    save(path, [Result("first", PASSED)])

    def full(self: Path, *_: Any, **__: Any) -> int:
        self.touch()
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        save(path, [])
    assert [each.name for each in load(path)] == ["first"]


def test_the_closing_table_has_forty_lines_at_most_and_every_check() -> None:
    names = [f"check-{index}" for index in range(15)]
    results = [Result(name, PASSED, 1.0, {SUMMARY: [f"{name} {'x' * 300}"] * 9}) for name in names]
    results[7].status, results[7].error = FAILED, "Traceback\nAssertionError: not as on the CPU"
    lines = table(results)
    assert len(lines) == MOST_LINES
    assert max(map(len, lines)) == MOST_COLUMNS
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == names
    assert any("AssertionError: not as on the CPU" in line for line in lines)
    assert all(any(line.startswith(f"    {name} ") for line in lines) for name in names)


def test_a_reason_is_the_last_line_with_text_from_where_the_failure_is_named() -> None:
    assert reason(Result("a", FAILED, error="Traceback\nValueError: bad\n\n\n")) == ": ValueError: bad"
    signature = "RuntimeError: /src/cuda_call.cc:154 std::conditional_t<THRW, void, Status> " * 3
    text = f"Traceback\n{signature}CUDA failure 35: the driver is too old ; GPU=-1\n\n"
    assert reason(Result("a", FAILED, error=text)) == ": CUDA failure 35: the driver is too old ; GPU=-1"
    assert reason(Result("a", FAILED)) == reason(Result("a", FAILED, error="\n")) == ""


def test_notes_of_one_group_share_a_line() -> None:
    figures: dict[str, Any] = {}
    for group, text in (("64 rows", "greedy 1"), ("64 rows", "beam 2"), ("256 rows", "greedy 3")):
        note(figures, group, text)
    assert figures[SUMMARY] == ["64 rows: greedy 1; beam 2", "256 rows: greedy 3"]


def test_all_limits_together_are_500_seconds_at_most_and_what_may_fail_comes_last() -> None:
    assert sum(check.limit_s for check in CHECKS) <= 500
    assert CHECKS[0].name == FIRST
    assert [check.name for check in CHECKS[-2:]] == ["ctranslate2", "compiled"]
    assert [check.is_optional for check in CHECKS] == [False] * (len(CHECKS) - 2) + [True, True]


def test_every_check_has_a_function() -> None:
    code = "import importlib, sys; [getattr(importlib.import_module(a), b) for a, _, b in (t.partition(':') for t in sys.argv[1:])]"
    subprocess.run([sys.executable, "-c", code, *(check.target for check in CHECKS)], check=True)


def test_a_machine_without_a_gpu_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "attnserve_loadtest.gpu"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("no GPU: this ONNX Runtime has no CUDA provider")


@pytest.mark.parametrize(("arguments", "compares"), [((), True), (("--without-values",), False)])
def test_golden_answers_are_values_too(
    arguments: tuple[str, ...], compares: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without values, servers that a check starts compare none."""
    monkeypatch.setenv("ATTNSERVE_ENGINE_CHECK_ANSWERS", "true")
    for name, value in {"provider_problem": str, "end_on_sigterm": lambda: None, "run_checks": lambda *_: []}.items():
        monkeypatch.setattr(command, name, value)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "report.json"), *arguments])
    command.main()
    assert load_config({}, os.environ).engine.check_answers == compares
