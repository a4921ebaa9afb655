# SPDX-License-Identifier: Apache-2.0
"""The report: a JSON list of results, rewritten atomically after each figure, so that a reader never finds half of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
RUNNING = "running"
"""The process of the check has not ended, or ended before it could say how."""
PARTIAL = "partial"
"""The figures are valid, but the time limit cut some off."""
NO_DEVICE = "no device"
CUT = "not measured"
"""The figure that names what the time limit cut off; it makes a check partial."""
SUMMARY = "summary"
"""The figure that holds the check's lines of the closing table."""

_REASON_COLUMNS = 150
_FAILURE = re.compile(r"\b(CUDA|CUBLAS|CUDNN) failure \d")


class Skip(Exception):
    """A check that cannot be made here; the text says why."""


class NoDevice(Exception):
    """There is no CUDA device that can be used; the text says why."""


@dataclass(slots=True)
class Result:
    """The result of a check; ``figures`` is what it measured, whether or not it passed."""

    name: str
    status: str
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def reason(result: Result) -> str:
    """The last line of the error that is not blank, shortened, after a colon; empty without one.

    An error of ONNX Runtime's CUDA provider begins with C++ signatures; of it, the line begins with the failure.
    """
    lines = [line for line in result.error.splitlines() if line.strip()]
    if not lines:
        return ""
    failure = _FAILURE.search(lines[-1])
    return f": {lines[-1][failure.start() if failure else 0 :][:_REASON_COLUMNS]}"


def load(report: Path, without: str = "") -> list[Result]:
    """The results in a report, except that of the check ``without``.

    Raises:
        FileNotFoundError: there is no report.
    """
    found = json.loads(report.read_text(encoding="utf-8"))
    return [Result(**each) for each in found if each["name"] != without]


def save(report: Path, results: Sequence[Result]) -> None:
    """Writes the report to a file beside it and renames that; makes its folder."""
    report.parent.mkdir(parents=True, exist_ok=True)
    temporary = report.with_suffix(f".{os.getpid()}.tmp")
    text = json.dumps([asdict(result) for result in results], indent=1, default=str)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(report)


def note(figures: dict[str, Any], group: str, text: str) -> None:
    """Adds to the check's lines of the closing table: to the last line where it is of this group, or as a new one."""
    lines, start = list(figures.get(SUMMARY, [])), f"{group}: "
    if lines and lines[-1].startswith(start):
        lines[-1] += f"; {text}"
    else:
        lines.append(start + text)
    figures[SUMMARY] = lines


class Figures(dict[str, Any]):
    """The figures of a running check: each assignment is written into the report at once.

    Args:
        report: the file.
        name: of the check.
    """

    def __init__(self, report: Path, name: str) -> None:
        super().__init__()
        self._report, self._name = report, name
        self.write(RUNNING)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self.write(RUNNING)

    def write(self, status: str, error: str = "") -> None:
        """Writes the result with this status."""
        result = Result(self._name, status, 0.0, dict(self), error)
        save(self._report, [*load(self._report, without=self._name), result])
