# SPDX-License-Identifier: Apache-2.0
"""A tool that cannot be had is a failure that names it, and nothing half made stays in the cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.deploy import containers, tools
from tests.deploy.tools import ToolError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tools, "CACHE", tmp_path)
    return tmp_path


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tools.required("python3", "git")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="need python3, git, which this machine lacks"):
        tools.required("python3", "git")


def test_machine_without_a_program_of_the_engine_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"unshare, nsenter, ip"), containers.engine():
        pass


def test_engine_without_root_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ToolError, match="needs root"), containers.engine():
        pass


def test_command_that_fails_is_shown_with_its_output() -> None:
    with pytest.raises(ToolError, match=r"sh -c echo why; exit 3 ended with 3: why"):
        tools.called("sh", "-c", "echo why; exit 3")


def test_package_that_does_not_exist_is_named_and_leaves_nothing(cache: Path) -> None:
    with pytest.raises(ToolError, match="attnserve-no-such-package"):
        tools.python("attnserve-no-such-package==1")
    assert [entry.name for entry in cache.iterdir() if entry.is_dir()] == []


def test_folder_is_made_once(cache: Path) -> None:
    made: list[Path] = []
    for _ in range(2):
        folder = tools.kept("thing", made.append)
    assert (len(made), folder) == (1, cache / "thing")
    assert made[0] != folder, "an unfinished folder has another name"
