# SPDX-License-Identifier: Apache-2.0
"""Runs each check in a process of its own, under its own time limit.

A CUDA fault makes every later CUDA call of its process fail, and a launch or a compiler may hang. So a check that crashes or hangs
ends its own process, and the next check starts in a new one. The child writes its figures into the report as it measures them
(``child.py``): what was measured before a crash stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnserve_loadtest.gpu.results import FAILED, NO_DEVICE, PASSED, RUNNING, SKIPPED, Result, load, reason, save

LEAST_S = 3.0
"""With less time than this left, a check is not started."""
_REAP_S = 10.0
_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class Check:
    """A check that :func:`run_checks` starts.

    Attributes:
        name: in the report and on the command line.
        target: ``module:function``; the function takes a :class:`~attnserve_loadtest.gpu.context.Context` and its figures.
        limit_s: the process is killed after so many seconds.
        is_optional: what it needs may be missing, so a failure counts as skipped.
    """

    name: str
    target: str
    limit_s: float
    is_optional: bool = False


def end_on_sigterm() -> None:
    """Makes SIGTERM (of ``timeout``, say) end this process in order: the check that runs is killed with it."""

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def run_checks(
    checks: Sequence[Check],
    report: Path,
    settings: Mapping[str, Any],
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[Result]:
    """Runs all checks that the budget has time for, one after the other.

    The limit of a check is cut to what is left of the budget. After a check that finds no device, no further check is started.

    Args:
        checks: in their order.
        report: the JSON file; replaced. The output of all processes goes into the file beside it with the suffix ``.log``.
        settings: arguments of :class:`~attnserve_loadtest.gpu.context.Context`; passed to each child as JSON.
        budget_s: seconds for all checks together.
        clock: monotonic.

    Returns:
        A result for each check, in their order.
    """
    began, missing = clock(), ""
    save(report, [])
    report.with_suffix(".log").write_bytes(b"")
    for check in checks:
        print(f"{check.name} ...", flush=True)
        started = clock()
        left = budget_s - (started - began)
        if missing or left < LEAST_S:
            result = Result(check.name, SKIPPED, error=missing or f"the budget of {budget_s:g} s is spent")
        else:
            result = _run(check, report, settings, min(check.limit_s, left))
        result.seconds = round(clock() - started, 2)
        if result.status == NO_DEVICE:
            missing = "there is no device"
        save(report, [*load(report, without=check.name), result])
        print(f"  {result.status} after {result.seconds:.1f} s{reason(result)}", flush=True)
    return load(report)


def _run(check: Check, report: Path, settings: Mapping[str, Any], limit_s: float) -> Result:
    """Starts the child, waits for at most ``limit_s``, and reads its result."""
    job = {"name": check.name, "target": check.target, "report": str(report), "limit_s": limit_s, "settings": dict(settings)}
    command = [sys.executable, "-m", "attnserve_loadtest.gpu.child", json.dumps(job)]
    with report.with_suffix(".log").open("ab") as log:
        log.write(f"--- {check.name}\n".encode())
        log.flush()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            problem = _end_of(process.wait(limit_s))
        except subprocess.TimeoutExpired:
            problem = f"it ran longer than its limit of {limit_s:g} s and was killed"
        finally:
            _kill_group(process)
    result = next((each for each in load(report) if each.name == check.name), Result(check.name, RUNNING))
    if result.status == RUNNING:
        tail = "\n".join(_log_of(check.name, report)[-_TAIL_LINES:])
        result.status, result.error = FAILED, f"{tail}\n{problem or 'its process wrote no result'}".strip()
    if result.status == FAILED and check.is_optional:
        result.status = SKIPPED
    return result


def _end_of(code: int) -> str:
    """How a process ended; empty if it ended by itself without an error."""
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}" if code else ""


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills the child and what it has started (a server, its workers); a process that SIGKILL does not end is left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_REAP_S)


def _log_of(name: str, report: Path) -> list[str]:
    """What the processes of a check have printed."""
    text = report.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(f"--- {name}\n")[2].splitlines()


def exit_code(results: Sequence[Result]) -> int:
    """0 if every check passed or was skipped, 2 if there is no device, else 1."""
    if any(result.status == NO_DEVICE for result in results):
        return 2
    return int(any(result.status not in (PASSED, SKIPPED) for result in results))
