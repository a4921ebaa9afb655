# SPDX-License-Identifier: Apache-2.0
"""Runs tests. A file with a failed test is run once more, in a new process and one test at a time, and the report says so.

``python -m tests.rerun [options of pytest]``, with options and no paths. The run fails if a test fails again, or at any other error:
while tests are collected, a wrong option, an interrupt.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict

import pytest

JUDGED = "ATTNSERVE_TEST_JUDGED"
"""Environment variable of the second run, in which bars of time are judged whatever other work there is (``tests/other_work.py``)."""
MOST_FILES = 5
"""Where more files fail, the fault is not one of them: none is run again."""


class Failures:
    """A plugin of pytest that records the failed tests of each file, and the reasons."""

    def __init__(self) -> None:
        self.by_file: dict[str, list[str]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See pytest."""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = str(crash.message if crash is not None else report.longrepr)
            self.by_file[report.nodeid.partition("::")[0]].append(f"{report.nodeid} ({report.when}): {message.splitlines()[0]}")


def announce(text: str) -> None:
    """Prints a line that stands out in a log."""
    print(f"\nRERUN {text}", flush=True)


def main(options: list[str]) -> int:
    """Runs the tests that the options select; returns the exit code, that of the second run where there is one."""
    failures = Failures()
    code = pytest.main(options, plugins=[failures])
    if code != pytest.ExitCode.TESTS_FAILED or not failures.by_file:
        return int(code)
    if len(failures.by_file) > MOST_FILES:
        announce(f"of none of {len(failures.by_file)} files, because tests of more than {MOST_FILES} failed")
        return int(code)
    for file, reasons in failures.by_file.items():
        announce(f"{file}, because a test of it failed:")
        print(*(f"  {reason}" for reason in reasons), sep="\n", flush=True)
    files = list(failures.by_file)
    environ = {**os.environ, JUDGED: "1"}
    again = subprocess.run([sys.executable, "-m", "pytest", *options, "-n", "0", *files], check=False, env=environ).returncode
    announce(f"{'passed' if again == 0 else 'FAILED AGAIN'}: {', '.join(files)}")
    return again


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
