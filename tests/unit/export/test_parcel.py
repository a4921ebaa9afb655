# SPDX-License-Identifier: Apache-2.0
"""Runs packed into pieces, and unpacked among the runs of another machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnserve_export.training.files import LOCK, locked
from attnserve_export.training.parcel import pack, unpack
from attnserve_export.training.run import BEST, CHECKPOINT, PROGRESS, SUMMARY

KIB = 1024


def _run(runs: Path, name: str, epochs: float, *, is_done: bool = False, content: bytes = b"there") -> Path:
    folder = runs / name
    (folder / "samples").mkdir(parents=True)
    (folder / PROGRESS).write_text(json.dumps({"epochs": epochs, "of": 4}))
    (folder / BEST).write_bytes(content)
    for number in (1, 2):
        (folder / "samples" / f"epoch-00{number}.png").write_bytes(content)
    if is_done:
        (folder / SUMMARY).write_text("{}")
    (folder / CHECKPOINT).write_bytes(content)
    return folder


def _names(run: Path) -> set[str]:
    return {path.name for path in run.rglob("*") if path.is_file()}


def test_a_finished_run_comes_with_its_weights_and_an_unfinished_one_can_go_on(tmp_path: Path) -> None:
    _run(tmp_path / "there", "done", 4, is_done=True)
    _run(tmp_path / "there", "half", 2)
    assert pack(["done", "half", "missing"], tmp_path / "there", tmp_path / "out", KIB, 64) == []
    assert max(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= KIB
    _run(tmp_path / "here", "done", 3)
    said: list[str] = []
    unpack(tmp_path / "out", tmp_path / "here", said.append)
    assert said == ["done: 100% done", "half: 50% done"]
    assert _names(tmp_path / "here" / "done") - {LOCK} == {PROGRESS, BEST, SUMMARY, "epoch-001.png", "epoch-002.png"}
    assert _names(tmp_path / "here" / "half") - {LOCK} == {PROGRESS, BEST, CHECKPOINT, "epoch-002.png"}


@pytest.mark.parametrize(("here", "is_done"), [(2.0, False), (3.0, False), (1.0, True)])
def test_a_run_that_is_as_far_here_is_left_as_it_is(tmp_path: Path, here: float, is_done: bool) -> None:
    _run(tmp_path / "there", "run", 2)
    pack(["run"], tmp_path / "there", tmp_path / "out", KIB, 64)
    folder = _run(tmp_path / "here", "run", here, is_done=is_done, content=b"here")
    unpack(tmp_path / "out", tmp_path / "here", lambda _: None)
    assert (folder / CHECKPOINT).read_bytes() == b"here"


def test_a_run_that_a_process_trains_is_left_as_it_is(tmp_path: Path) -> None:
    _run(tmp_path / "there", "run", 3)
    pack(["run"], tmp_path / "there", tmp_path / "out", KIB, 64)
    folder = _run(tmp_path / "here", "run", 1, content=b"here")
    said: list[str] = []
    with locked(folder / LOCK, waits=False):
        unpack(tmp_path / "out", tmp_path / "here", said.append)
    assert "another process" in said[0]
    assert (folder / CHECKPOINT).read_bytes() == b"here"


def test_what_has_no_room_is_named_and_results_come_first(tmp_path: Path) -> None:
    _run(tmp_path / "there", "half", 2, content=bytes(30 * KIB))
    _run(tmp_path / "there", "done", 4, is_done=True)
    left_out = pack(["half", "done"], tmp_path / "there", tmp_path / "out", 10 * KIB, 3)
    assert f"half/{CHECKPOINT}" in left_out
    unpack(tmp_path / "out", tmp_path / "here", lambda _: None)
    assert (tmp_path / "here" / "done" / SUMMARY).exists()
    assert not (tmp_path / "here" / "half").exists()


def test_a_folder_without_pieces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"runs\.tar"):
        unpack(tmp_path, tmp_path / "here", lambda _: None)
