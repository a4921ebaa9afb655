# SPDX-License-Identifier: Apache-2.0
"""Runs checks one after the other: what one finds is written before the next begins, and a failure stops nothing."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Skip(Exception):
    """A check that cannot be made here; the text says why."""


@dataclass(slots=True)
class Result:
    """What became of a check; ``figures`` is what it measured, whether or not it passed."""

    name: str
    status: str
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)
    error: str = ""


Check = Callable[[dict[str, Any]], None]
"""Fills in its figures as it goes; raises AssertionError where they are not as they must be."""


def run_checks(
    checks: Mapping[str, Check], path: Path, budget_s: float, clock: Callable[[], float] = time.monotonic
) -> list[Result]:
    """Runs all checks that the budget has time for.

    Args:
        checks: by name, in their order.
        path: a JSON file that is rewritten after each of them.
        budget_s: no check is begun after so many seconds.
        clock: monotonic.
    """
    began, results = clock(), list[Result]()
    for name, check in checks.items():
        started, figures = clock(), dict[str, Any]()
        result = Result(name, PASSED, 0.0, figures)
        print(f"{name} ...", flush=True)
        if started - began > budget_s:
            result.status, result.error = SKIPPED, f"the budget of {budget_s:g} s is spent"
        else:
            _run(check, result)
        result.seconds = round(clock() - started, 2)
        results.append(result)
        why = f": {result.error.splitlines()[-1]}" if result.error else ""
        print(f"  {result.status} after {result.seconds:.1f} s{why}", flush=True)
        save(path, results)
    return results


def _run(check: Check, result: Result) -> None:
    try:
        check(result.figures)
    except Skip as skip:
        result.status, result.error = SKIPPED, str(skip)
    except Exception:  # noqa: BLE001  whatever it is, the next check may tell more
        result.status, result.error = FAILED, traceback.format_exc(limit=8)


def save(path: Path, results: list[Result]) -> None:
    """Writes the report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(result) for result in results], indent=1, default=str) + "\n", encoding="utf-8")


def exit_code(results: list[Result]) -> int:
    """1 where a check has failed, else 0."""
    return int(any(result.status == FAILED for result in results))


def floor_s(num_bytes: float, bandwidth: float) -> float:
    """The least that reading so many bytes can take, in seconds, at so many bytes a second."""
    return num_bytes / bandwidth
