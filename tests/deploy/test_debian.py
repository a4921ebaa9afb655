# SPDX-License-Identifier: Apache-2.0
"""Programs that cannot be had fail a test, and say why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy import debian


def test_package_that_does_not_exist_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(debian.ToolError, match="no-such-package"):
        debian.unpacked("no-such-package", cache=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["trixie-no-such-package.lock"], "nothing half unpacked is left"


def test_system_without_apt_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(debian.ToolError, match="apt-get is not there"):
        debian.unpacked("prometheus", cache=tmp_path)


def test_packages_are_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = debian.unpacked("prometheus", "promtool", "prometheus-alertmanager")
    assert (folder / "usr/bin/promtool").is_file()
    monkeypatch.setenv("PATH", "")
    assert debian.unpacked("promtool", "prometheus", "prometheus-alertmanager") == folder
