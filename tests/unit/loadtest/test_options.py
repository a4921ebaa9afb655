# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_loadtest``: all options are checked before a server or Locust is started."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from attnserve_loadtest import __main__ as command


class Started(Exception):
    """A server was started."""


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any) -> None:
        raise Started

    monkeypatch.setattr(command, "DemoServer", start)
    monkeypatch.setattr(command.subprocess, "run", start)


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["attnserve_loadtest", *options])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        command.main()
    return end.value.code


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--slo", "foo"], "'foo' is no objective"),
        (["--slo", "errors<0.1", "--slo", "Translate:p99<2", "--slo", "Other:p99<2"], "no event 'Other'"),
        (["--shape", "round"], "no shape 'round'"),
        (["--kind", "other"], "no kind 'other'"),
    ],
)
def test_wrong_option_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert run(monkeypatch, "--results", str(tmp_path), *options) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert options[0] in shown


def test_results_that_cannot_be_a_folder_start_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert run(monkeypatch, "--results", str(file)) == 2
    assert "--results" in capsys.readouterr().err


def test_token_that_cannot_be_read_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--address", "127.0.0.1:1", "--token-file", str(tmp_path / "none"), "--results", str(tmp_path))
    assert run(monkeypatch, *options) == 1
    assert "none" in capsys.readouterr().err


def test_right_options_start_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["attnserve_loadtest", "--results", str(tmp_path / "new"), "--slo", "errors<1"])
    with pytest.raises(Started):
        command.main()
    assert (tmp_path / "new").is_dir()
