# SPDX-License-Identifier: Apache-2.0
"""Makes the rules file for Prometheus from the rules and alerts of this folder.

``python -m deploy.prometheus.make_rules`` writes ``rules.yml``, which is committed. ``--scale 120 --out FILE`` writes the same
rules with all durations divided by 120: a test of minutes then stands for hours.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from deploy.prometheus.alerts import ALERTS, Alert
from deploy.prometheus.recordings import RECORDINGS, Recording

OUT = Path(__file__).with_name("rules.yml")
RUNBOOKS = "deploy/prometheus/RUNBOOK.md"
"""The page of the runbooks; ``--runbooks`` sets the address at which your organisation shows it."""

INTERVAL = "30s"
"""Between two evaluations."""

HEAD = """\
# SPDX-License-Identifier: Apache-2.0
# Made by `python -m deploy.prometheus.make_rules`: edit recordings.py and alerts.py beside it.
"""
_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(r"(\d+)(ms|[smhd])")
_RANGE = re.compile(rf"\[({_DURATION.pattern})\]")


def scaled(duration: str, scale: int) -> str:
    """Returns a duration of Prometheus divided by ``scale``, in its largest whole unit.

    Raises:
        ValueError: it is no duration of one unit, or the quotient is no whole number of milliseconds.
    """
    found = _DURATION.fullmatch(duration)
    if found is None:
        raise ValueError(f"{duration!r} is no duration such as 5m")
    quotient = Fraction(int(found[1]) * _MILLISECONDS[found[2]], scale)
    if quotient.denominator != 1:
        raise ValueError(f"{duration} / {scale} is no whole number of milliseconds")
    if not quotient:
        return "0s"
    unit = next(unit for unit, length in _MILLISECONDS.items() if quotient % length == 0)
    return f"{quotient // _MILLISECONDS[unit]}{unit}"


def scaled_ranges(expression: str, scale: int) -> str:
    """Returns an expression with the durations of its range selectors divided by ``scale``."""
    return _RANGE.sub(lambda found: f"[{scaled(found[1], scale)}]", expression)


def rules_file(scale: int = 1, runbooks: str = RUNBOOKS) -> str:
    """Returns the text of the rules file.

    Args:
        scale: all durations are divided by it.
        runbooks: address of the page of the runbooks.
    """
    lines = [HEAD + "groups:"]
    for name, rules in (("attnserve.recordings", RECORDINGS), ("attnserve.alerts", ALERTS)):
        lines += [f"  - name: {name}", f"    interval: {scaled(INTERVAL, scale)}", "    rules:"]
        for rule in rules:
            lines += _recording(rule, scale) if isinstance(rule, Recording) else _alert(rule, scale, runbooks)
    return "\n".join(lines) + "\n"


def _recording(rule: Recording, scale: int) -> Iterator[str]:
    yield f"      - record: {rule.name}"
    yield from _expression(rule.expression, scale)


def _alert(rule: Alert, scale: int, runbooks: str) -> Iterator[str]:
    yield f"      - alert: {rule.name}"
    yield from _expression(rule.expression, scale)
    yield f"        for: {scaled(rule.hold, scale)}"
    yield "        labels:"
    yield f"          severity: {rule.severity}"
    yield "        annotations:"
    yield f"          summary: {json.dumps(rule.summary, ensure_ascii=False)}"
    yield f"          description: {json.dumps(rule.description, ensure_ascii=False)}"
    yield f"          runbook_url: {json.dumps(f'{runbooks}#{rule.name.lower()}')}"


def _expression(expression: str, scale: int) -> Iterator[str]:
    yield "        expr: |-"
    yield from (f"          {line}" for line in scaled_ranges(expression, scale).splitlines())


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the rules file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=1, help="divide all durations by this number")
    parser.add_argument("--runbooks", default=RUNBOOKS, help="address of the page of the runbooks")
    parser.add_argument("--out", type=Path, default=OUT, help="file to write")
    asked = parser.parse_args(arguments)
    asked.out.write_text(rules_file(asked.scale, asked.runbooks), encoding="utf-8")


if __name__ == "__main__":
    main()
