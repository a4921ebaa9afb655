# SPDX-License-Identifier: Apache-2.0
"""The CI repeats ``make test-deploy`` exactly if an input of it differs from the committed record of its last pass."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest

from tests.deploy import inputs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    for name in (".ci", "deploy/docker", "docs"):
        (folder / name).mkdir(parents=True)
    subprocess.run(["git", "init", "-q", folder], check=True)
    (folder / "deploy/docker/Dockerfile").write_text("FROM a\n", encoding="utf-8")
    (folder / ".gitignore").write_text("*.log\n.make/\n", encoding="utf-8")
    return folder


def passed(root: Path) -> None:
    assert inputs.main(["--begin"], root) == 0
    assert inputs.main(["--passed"], root) == 0


def test_changed_inputs_are_tested_and_the_same_ones_are_not(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inputs.main([], root) == 0
    assert "there is no record of a pass" in capsys.readouterr().out
    passed(root)
    assert capsys.readouterr().out == "make test-deploy: passed; commit .ci/test-deploy.json\n"
    (root / "docs/page.md").write_text("no input", encoding="utf-8")
    (root / "deploy/x.log").write_text("ignored", encoding="utf-8")
    assert inputs.main([], root) == inputs.UNCHANGED
    assert "left out" in capsys.readouterr().out
    (root / "deploy/docker/Dockerfile").write_text("FROM b\n", encoding="utf-8")
    (root / "Makefile").write_text("", encoding="utf-8")
    assert inputs.main([], root) == 0
    assert capsys.readouterr().out.endswith("(.ci/test-deploy.json): Makefile, deploy\n")


def test_clone_of_what_passed_is_not_tested_again(root: Path, tmp_path: Path) -> None:
    passed(root)
    identity = ["-c", "user.name=a", "-c", "user.email=a@a.test"]
    subprocess.run(["git", "add", "."], cwd=root, check=True)
    subprocess.run(["git", *identity, "commit", "-qm", "all"], cwd=root, check=True)
    subprocess.run(["git", "clone", "-q", root, tmp_path / "clone"], check=True)
    assert inputs.main([], tmp_path / "clone") == inputs.UNCHANGED


def test_record_has_one_digest_for_each_input_and_is_itself_none(root: Path) -> None:
    passed(root)
    text = (root / inputs.RECORD).read_text(encoding="utf-8")
    assert list(json.loads(text)) == list(inputs.INPUTS) == sorted(inputs.INPUTS)
    assert len(text.splitlines()) == len(inputs.INPUTS) + 2
    passed(root)
    assert (root / inputs.RECORD).read_text(encoding="utf-8") == text


def test_file_that_changes_during_the_tests_is_tested_again(root: Path) -> None:
    assert inputs.main(["--begin"], root) == 0
    (root / "deploy/new.yaml").write_text("a: 1\n", encoding="utf-8")
    assert inputs.main(["--passed"], root) == 0
    assert inputs.main([], root) == 0


def test_renamed_and_removed_files_change_the_digest_of_their_input(root: Path) -> None:
    file, other = root / "deploy/docker/Dockerfile", root / "deploy/docker/Containerfile"
    before = inputs.digests(root)
    file.rename(other)
    renamed = inputs.digests(root)
    other.unlink()
    assert [inputs.changes(before, each) for each in (renamed, inputs.digests(root))] == [["deploy"], ["deploy"]]
    assert renamed != inputs.digests(root)


def test_added_and_removed_inputs_are_changes() -> None:
    assert inputs.changes({"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"}) == ["a", "b", "d"]


def test_every_input_is_there_and_the_image_depends_on_inputs_only() -> None:
    missing = [name for name in inputs.INPUTS if not (inputs.ROOT / name).exists()]
    assert missing == []
    lines = (inputs.ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert [name for name in copied if not name.startswith(inputs.INPUTS)] == ["LICENSE", "README.md"], "texts in the wheel"


def imported(folder: Path, found: set[str]) -> set[str]:
    """Paths of the modules of this repository's tests that the files of a folder import, and these in turn."""
    for file in folder.glob("*.py") if folder.is_dir() else [folder]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = (
                [node.module, *(f"{node.module}.{each.name}" for each in node.names)] if isinstance(node, ast.ImportFrom) else []
            )
            for module in modules:
                path = f"{str(module).replace('.', '/')}.py"
                if path.startswith("tests/") and path not in found and (inputs.ROOT / path).is_file():
                    found.add(path)
                    imported(inputs.ROOT / path, found)
    return found


def test_everything_that_the_tests_import_is_an_input() -> None:
    found = imported(inputs.ROOT / "tests/deploy", set())
    assert {"tests/deploy/tools.py", "tests/e2e/serving.py", "tests/foreign/common.py"} <= found
    assert [path for path in sorted(found) if not path.startswith(inputs.INPUTS)] == []
