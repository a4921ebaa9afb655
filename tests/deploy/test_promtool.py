# SPDX-License-Identifier: Apache-2.0
"""Each alert fires, clears and does not fire in Prometheus' own unit tests; the samples are in ``rule_cases.py``."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.prometheus.alerts import ALERTS
from deploy.prometheus.make_rules import OUT, RUNBOOKS, rules_file
from tests.deploy.prometheus import promtool
from tests.deploy.rule_cases import CASES, Case, Series, named


def unit_test(series: Series, alert: str, expected: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """A test of an alert: what it shows at some minutes."""
    return {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": " ".join(f"{value:.12g}" for value in values)} for name, values in series.items()
        ],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": alerts} for minute, alerts in expected.items()
        ],
    }


def own_tests(case: Case) -> list[dict[str, Any]]:
    """It fires and clears; close to the threshold it does not fire at any minute."""
    firing = {
        "exp_labels": {**case.labels, "severity": case.severity},
        "exp_annotations": {
            "summary": case.summary,
            "description": case.description,
            "runbook_url": f"{RUNBOOKS}#{case.alert.lower()}",
        },
    }
    length = max(map(len, case.close.values()))
    return [
        unit_test(case.fires, case.alert, {1: [], case.at: [firing], case.clears_at: []}),
        unit_test(case.close, case.alert, {minute: [] for minute in range(1, length)}),
    ]


def run_promtool(folder: Path, rules: Path, cases: tuple[Case, ...]) -> str:
    """Returns the failures; empty if all tests pass."""
    tests = [test for case in cases for test in own_tests(case)]
    file = folder / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "30s", "tests": tests}), encoding="utf-8")
    done = subprocess.run([promtool(), "test", "rules", str(file)], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0 or "FAILED" in done.stdout + done.stderr, done.stderr
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    assert [case.alert for case in CASES] == [alert.name for alert in ALERTS]
    for case in CASES:
        assert all(len(values) > case.clears_at for values in case.fires.values()), case.alert


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_alert_fires_and_clears_and_is_quiet_close_to_its_threshold(case: Case, tmp_path: Path) -> None:
    assert run_promtool(tmp_path, OUT, (case,)) == ""


def test_rules_are_accepted() -> None:
    subprocess.run([promtool(), "check", "rules", "--lint=all", "--lint-fatal", str(OUT)], check=True, timeout=60)


@pytest.mark.parametrize(
    ("old", "new", "alert"),
    [
        ("> 15\n        for: 30s", "> 150\n        for: 30s", "AttnserveWorkerSilent"),  # does not fire
        ("== 0\n        for: 2m", "== 0\n        for: 0s", "AttnserveDown"),  # fires too early
        ("> 0.05\n        for: 10m", "> 0.01\n        for: 10m", "AttnserveSlow"),  # fires below its threshold
        ("has work and", "has no work and", "AttnserveWorkerSilent"),  # says something else
    ],
)
def test_wrong_rule_is_seen(tmp_path: Path, old: str, new: str, alert: str) -> None:
    assert rules_file().count(old) == 1
    (tmp_path / "rules.yml").write_text(rules_file().replace(old, new), encoding="utf-8")
    case = next(each for each in CASES if each.alert == alert)
    assert alert in run_promtool(tmp_path, tmp_path / "rules.yml", (case,))


def test_alert_that_does_not_clear_is_seen(tmp_path: Path) -> None:
    case = next(each for each in CASES if each.alert == "AttnserveDown")
    stays = dataclasses.replace(case, fires={named("up"): [1.0] * 10 + [0.0] * 30})
    assert "AttnserveDown" in run_promtool(tmp_path, OUT, (stays,))
