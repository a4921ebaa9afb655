# SPDX-License-Identifier: Apache-2.0
"""The public surface is what the golden files say. After an intended change: ``python -m tests.contract.surface``, then read the diff."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.metrics_page import HEAD, PAGE, with_table
from tests.contract.surface import FOLDER, commands, help_file, help_of, metrics, surface

SURFACE = surface()


def expected(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SURFACE)
def test_surface_is_as_it_was(name: str) -> None:
    assert SURFACE[name] == expected(name)


@pytest.mark.parametrize("command", commands(), ids=lambda command: command or "attnserve")
def test_help_is_as_it_was(command: str) -> None:
    assert help_of(command) == expected(help_file(command))


def test_there_is_no_golden_file_too_many() -> None:
    known = {*SURFACE, *(help_file(command) for command in commands())}
    assert {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()} == known


def test_another_label_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnserve_server.metrics.prometheus._MODEL", ("model", "version", "client"))
    assert metrics() != expected("metrics.txt")


def test_every_proto_is_in_it() -> None:
    protos = {path.stem for path in (Path(__file__).resolve().parents[2] / "protos/attnserve/v1").glob("*.proto")}
    assert protos == {Path(name).stem for name in SURFACE if name.startswith("protos/")}


def test_page_of_metrics_has_the_table_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_table(text) == text, "python -m tests.contract.metrics_page writes it"


def test_metric_that_the_page_lacks_is_seen() -> None:
    text = PAGE.read_text(encoding="utf-8")
    first = text.index("| `attnserve_", text.index(HEAD))
    assert with_table(text[:first] + text[text.index("\n", first) + 1 :]) == text
