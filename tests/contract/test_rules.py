# SPDX-License-Identifier: Apache-2.0
"""The committed rules are what the code makes, the scaled ones differ in durations only, and all that they name exists."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest

from deploy.prometheus.alerts import ALERTS
from deploy.prometheus.make_rules import OUT, main, rules_file, scaled
from deploy.prometheus.recordings import RECORDINGS, SLOW_S
from tests.contract.surface import described
from tests.contract.test_docs import anchors

ROOT = Path(__file__).resolve().parents[2]
SCALE = 120
WORD = re.compile(r"\d[\w.]*|\w+|\W")
UNITS = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600), "d": Fraction(86400)}
METRIC = re.compile(r"\battnserve_\w+")


def seconds(text: str) -> Fraction | None:
    """The length of a duration, None for any other text."""
    found = re.fullmatch(r"(\d+)(ms|[smhd])", text)
    return None if found is None else int(found[1]) * UNITS[found[2]]


def other_differences(real: str, fast: str, scale: int) -> list[str]:
    """The differences between two files that are no duration, divided by ``scale``."""
    pairs = zip(WORD.findall(real), WORD.findall(fast), strict=True)
    differing = [(one, other) for one, other in pairs if one != other]
    return [f"{one} {other}" for one, other in differing if (length := seconds(other)) is None or seconds(one) != length * scale]


def durations(text: str) -> list[str]:
    """What is written where Prometheus expects a duration."""
    return re.findall(r"\[(\w+)\]|for: (\w+)|interval: (\w+)", text)


def metric_faults(text: str) -> set[str]:
    """Metrics that a text names and the server does not have."""
    known = {name for name, *_ in described()}
    suffixes = ("_total", "_bucket", "_count", "_sum", "_info")
    return {name for name in METRIC.findall(text) if not {name, *(name.removesuffix(each) for each in suffixes)} & known}


def runbook_faults(text: str, page: str) -> list[str]:
    """Alerts without a section in the page of the runbooks, and sections without an alert."""
    found = re.findall(r'runbook_url: ".*#(.*)"', text)
    own = anchors(page) - {"runbook"}
    return sorted(set(found) ^ own)


def test_committed_rules_are_what_the_code_makes() -> None:
    assert OUT.read_text(encoding="utf-8") == rules_file(), "python -m deploy.prometheus.make_rules writes them"


def test_rule_that_was_edited_by_hand_is_seen(tmp_path: Path) -> None:
    main(["--out", str(tmp_path / "rules.yml")])
    assert (tmp_path / "rules.yml").read_text(encoding="utf-8") == rules_file()
    assert OUT.read_text(encoding="utf-8").replace("> 0.05", "> 0.06") != rules_file()


def test_scaled_rules_differ_in_durations_only() -> None:
    real, fast = rules_file(), rules_file(SCALE)
    assert other_differences(real, fast, SCALE) == []
    number = len(durations(real))
    assert number == len(durations(fast)) > 50
    zero = sum("0s" in found for found in durations(real))
    assert sum(one != other for one, other in zip(durations(real), durations(fast), strict=True)) == number - zero


def test_other_difference_is_seen() -> None:
    fast = rules_file(SCALE)
    assert other_differences(rules_file(), fast.replace("> 0.05", "> 0.04", 1), SCALE) == ["0.05 0.04"]
    assert other_differences(rules_file(), fast.replace("2500ms", "2s", 1), SCALE) == ["5m 2s"]
    assert other_differences(rules_file(), fast.replace("severity: critical", "severity: warning", 1), SCALE)


@pytest.mark.parametrize(
    ("duration", "scale", "expected"), [("5m", 1, "5m"), ("5m", 120, "2500ms"), ("3d", 120, "36m"), ("0s", 120, "0s")]
)
def test_duration_is_divided(duration: str, scale: int, expected: str) -> None:
    assert seconds(scaled(duration, scale)) == seconds(expected)


@pytest.mark.parametrize(("duration", "scale"), [("5", 1), ("1h30m", 1), ("1s", 7)])
def test_duration_that_cannot_be_divided_is_refused(duration: str, scale: int) -> None:
    with pytest.raises(ValueError, match="no"):
        scaled(duration, scale)


def test_every_metric_of_the_rules_is_one_of_the_server() -> None:
    assert METRIC.findall(rules_file())
    assert metric_faults(rules_file()) == set()
    assert metric_faults("rate(attnserve_requests_total[5m]) / attnserve_queue_second") == {"attnserve_queue_second"}


def test_every_recording_that_is_used_is_made() -> None:
    used = set(re.findall(r"\battnserve:\w+:\w+", "".join(alert.expression for alert in ALERTS)))
    assert used
    assert used <= {rule.name for rule in RECORDINGS}


def test_every_alert_has_a_runbook() -> None:
    page = (ROOT / "deploy/prometheus/RUNBOOK.md").read_text(encoding="utf-8")
    assert runbook_faults(rules_file(), page) == []
    assert runbook_faults(rules_file(), page.replace("## AttnserveSlow\n", "## AttnserveSloth\n")) == [
        "attnservesloth",
        "attnserveslow",
    ]
    assert "docs/alerts.md#attnservedown" in rules_file(runbooks="docs/alerts.md")


def alerts_without_a_test(texts: list[str]) -> set[str]:
    """Alerts that no test waits for until they fire."""
    named = {name for text in texts for name in re.findall(r'"(Attnserve\w+)"', text)}
    return {alert.name for alert in ALERTS} - named


def test_every_alert_is_tested_end_to_end() -> None:
    texts = [(ROOT / f"tests/deploy/{name}.py").read_text(encoding="utf-8") for name in ("test_alerts", "test_alerts_long")]
    assert alerts_without_a_test(texts) == set()
    assert alerts_without_a_test(texts[:1]) > {"AttnserveDown"}, "those of the long tests"


def test_slow_is_a_bucket_of_the_histograms() -> None:
    from attnserve_server.metrics.prometheus import SECONDS

    assert SLOW_S in SECONDS
