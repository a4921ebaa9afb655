# SPDX-License-Identifier: Apache-2.0
"""Programs that cannot be had fail a test, and say why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy import debian, tools


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tools, "CACHE", tmp_path)
    return tmp_path


def test_package_that_does_not_exist_is_a_failure(cache: Path) -> None:
    with pytest.raises(tools.ToolError, match="no-such-package"):
        debian.unpacked("no-such-package")
    assert [file.name for file in cache.iterdir()] == ["trixie-no-such-package.lock"], "nothing half unpacked is left"


def test_system_without_apt_is_a_failure(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(tools.ToolError, match="need apt-get, dpkg, which this machine lacks"):
        debian.unpacked("prometheus")


def test_system_without_an_archive_is_a_failure(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "called", lambda *_: "https://archive.test/debian-security")
    with pytest.raises(tools.ToolError, match="apt-get names no archive of packages"):
        debian.unpacked("prometheus")


def test_packages_are_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = debian.unpacked("prometheus", "promtool", "prometheus-alertmanager")
    assert (folder / "usr/bin/promtool").is_file()
    monkeypatch.setenv("PATH", "")
    assert debian.unpacked("promtool", "prometheus", "prometheus-alertmanager") == folder


def test_checkouts_share_what_is_unpacked() -> None:
    assert not tools.CACHE.is_relative_to(Path(__file__).parents[2])
