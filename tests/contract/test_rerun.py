# SPDX-License-Identifier: Apache-2.0
"""`make test` and `make test-load` run a file that fails once more, and prints that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract import inner_pytest
from tests.rerun import JUDGED, MOST_FILES

FAILS = """
from pathlib import Path

def test_a():
    runs = Path("runs")
    runs.write_text(runs.read_text() + "a" if runs.exists() else "a")
    assert len(runs.read_text()) > {failures}, "too slow"

def test_b():
    pass
"""


def rerun(folder: Path, *options: str) -> tuple[int, str]:
    done = inner_pytest.run(folder, "tests.rerun", *options)
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test_sound.py").write_text("def test_it():\n    with open('sound', 'a') as file:\n        file.write('s')\n")
    return tmp_path


def test_what_passes_is_run_once(folder: Path) -> None:
    code, said = rerun(folder)
    assert (code, (folder / "sound").read_text()) == (0, "s")
    assert "RERUN" not in said


def test_a_file_that_fails_is_run_once_more_and_that_is_said(folder: Path) -> None:
    (folder / "test_slow.py").write_text(FAILS.format(failures=1))
    code, said = rerun(folder)
    assert (code, (folder / "runs").read_text(), (folder / "sound").read_text()) == (0, "aa", "s")
    assert "RERUN test_slow.py, because a test of it failed:\n  test_slow.py::test_a (call): AssertionError: too slow" in said
    assert said.rstrip().endswith("RERUN passed: test_slow.py")


def test_a_second_failure_fails(folder: Path) -> None:
    (folder / "test_slow.py").write_text(FAILS.format(failures=2))
    code, said = rerun(folder)
    assert (code, (folder / "runs").read_text()) == (pytest.ExitCode.TESTS_FAILED, "aa")
    assert said.rstrip().endswith("RERUN FAILED AGAIN: test_slow.py")


def test_bars_are_judged_in_the_second_run(folder: Path) -> None:
    (folder / "test_slow.py").write_text(f"import os\ndef test_it():\n    assert {JUDGED!r} in os.environ\n")
    code, said = rerun(folder)
    assert (code, said.count("RERUN passed")) == (0, 1)


def test_a_fixture_that_fails_counts_too(folder: Path) -> None:
    broken = "import pytest\n@pytest.fixture\ndef it():\n    raise OSError('none')\ndef test_it(it):\n    pass\n"
    (folder / "test_broken.py").write_text(broken)
    code, said = rerun(folder)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "test_broken.py::test_it (setup): OSError: none" in said


def test_second_run_is_one_test_at_a_time(folder: Path) -> None:
    (folder / "test_slow.py").write_text("import os\ndef test_it():\n    assert 'PYTEST_XDIST_WORKER' not in os.environ\n")
    code, said = rerun(folder, "-n", "2", "--dist", "loadfile")
    assert (code, said.count("RERUN passed")) == (0, 1)


def test_none_is_run_again_where_most_fail(folder: Path) -> None:
    for number in range(MOST_FILES + 1):
        (folder / f"test_{number}.py").write_text("def test_it():\n    assert False\n")
    code, said = rerun(folder)
    assert (code, (folder / "sound").read_text()) == (pytest.ExitCode.TESTS_FAILED, "s")
    assert f"RERUN of none of {MOST_FILES + 1} files" in said


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [("import nothing_of_this_name", (), pytest.ExitCode.INTERRUPTED), ("", ("--nonesuch",), pytest.ExitCode.USAGE_ERROR)],
    ids=["import", "option"],
)
def test_what_is_no_failed_test_is_not_run_again(folder: Path, text: str, options: tuple[str, ...], expected: int) -> None:
    (folder / "test_broken.py").write_text(text)
    code, said = rerun(folder, *options)
    assert code == expected
    assert "RERUN" not in said
