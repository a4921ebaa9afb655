# SPDX-License-Identifier: Apache-2.0
"""The CI repeats ``make test-deploy`` exactly if a file that it depends on has changed since its last pass."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.deploy import inputs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "deploy/docker").mkdir(parents=True)
    (folder / "docs").mkdir()
    subprocess.run(["git", "init", "-q", folder], check=True)
    (folder / "deploy/docker/Dockerfile").write_text("FROM a\n", encoding="utf-8")
    (folder / ".gitignore").write_text("*.log\n", encoding="utf-8")
    return folder


def passed(root: Path, cache: Path) -> None:
    assert inputs.main(["--begin"], root, cache) == 0
    assert inputs.main(["--passed"], root, cache) == 0


def test_first_run_and_changes_are_tested_and_the_same_files_are_not(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    assert inputs.main([], root, cache) == 0
    assert "has not passed on this machine yet" in capsys.readouterr().out
    passed(root, cache)
    (root / "docs/page.md").write_text("no input", encoding="utf-8")
    (root / "deploy/x.log").write_text("ignored", encoding="utf-8")
    assert inputs.main([], root, cache) == inputs.UNCHANGED
    assert "left out" in capsys.readouterr().out
    (root / "deploy/docker/Dockerfile").write_text("FROM b\n", encoding="utf-8")
    assert inputs.main([], root, cache) == 0
    assert "changed since it passed on this machine: deploy/docker/Dockerfile" in capsys.readouterr().out


def test_file_that_changes_during_the_tests_is_tested_again(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert inputs.main(["--begin"], root, cache) == 0
    (root / "deploy/new.yaml").write_text("a: 1\n", encoding="utf-8")
    assert inputs.main(["--passed"], root, cache) == 0
    assert inputs.main([], root, cache) == 0


def test_added_and_removed_files_are_changes() -> None:
    assert inputs.changes({"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"}) == ["a", "b", "d"]


def test_every_input_is_there_and_the_image_depends_on_inputs_only() -> None:
    missing = [name for name in inputs.INPUTS if not (inputs.ROOT / name).exists()]
    assert missing == []
    lines = (inputs.ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert [name for name in copied if not name.startswith(inputs.INPUTS)] == ["LICENSE", "README.md"], "texts in the wheel"
