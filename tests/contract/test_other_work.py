# SPDX-License-Identifier: Apache-2.0
"""A test with bars of time is judged where other work leaves the processors to it."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import other_work
from tests.contract import inner_pytest
from tests.other_work import OtherWork
from tests.rerun import JUDGED

FILE = """
import pytest
from tests.other_work import bars

@pytest.mark.quiet
def test_with_bars():
    with bars():
        assert {holds}, "too slow"

@pytest.mark.quiet
def test_answers():
    assert {holds}, "wrong"
"""


def outcomes(folder: Path, *, holds: bool, most: float, **variables: str) -> str:
    """Runs the file with a limit of other work, and returns the output of pytest."""
    (folder / "conftest.py").write_text(f"import tests.other_work\ntests.other_work.MOST = {most}\n")
    (folder / "test_it.py").write_text(FILE.format(holds=holds))
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = quiet\n")
    arguments = ("pytest", "-ra", "-p", "tests.other_work", "-p", "no:cacheprovider", ".")
    return inner_pytest.run(folder, *arguments, **variables).stdout


def test_bar_that_fails_beside_other_work_is_not_judged(tmp_path: Path) -> None:
    said = outcomes(tmp_path, holds=False, most=-1)
    assert re.search(r"SKIPPED .*test_with_bars is not judged, other work took \d+% of the processors: too slow", said)
    assert "FAILED test_it.py::test_answers - AssertionError: wrong" in said
    assert "1 failed, 1 skipped" in said


def test_bar_that_holds_beside_other_work_has_passed(tmp_path: Path) -> None:
    assert "2 passed" in outcomes(tmp_path, holds=True, most=-1)


def test_bar_that_fails_without_other_work_fails(tmp_path: Path) -> None:
    assert "2 failed" in outcomes(tmp_path, holds=False, most=1000)


def test_bar_that_fails_in_the_second_run_fails(tmp_path: Path) -> None:
    assert "2 failed" in outcomes(tmp_path, holds=False, most=-1, **{JUDGED: "1"})


def test_processes_of_others_are_other_work() -> None:
    """One that counts for a second, and is no child of this process."""
    busy = f"{sys.executable} -c 'import time\nwhile time.process_time() < 1: pass'"
    others = OtherWork()
    pid = subprocess.run(["sh", "-c", f"{busy} >&2 & echo $!"], stdout=subprocess.PIPE, check=True, timeout=20).stdout
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(pid)).wait(20)
    assert others.taken_s() > 0.9


def test_children_are_not_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own count is replaced: other processes run there too."""
    monkeypatch.setattr(other_work, "machine_s", lambda: 5.0)
    others = OtherWork()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True, timeout=20)
    assert others.taken_s() < -0.4
