# SPDX-License-Identifier: Apache-2.0
"""The queue of training runs: its expansion, its unfinished parts, and runs in separate processes."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnserve_export.__main__ import app
from attnserve_export.recipe import RecipeError
from attnserve_export.training.classification import gain as classification
from attnserve_export.training.queue import QUEUES, QueueRunner, read_queue
from attnserve_export.training.segmentation import gain as segmentation
from attnserve_export.training.start import folder_name
from tests.unit.export.training_data import make_cifar10

QUEUE = """
[[run]]
recipe = "cbam-cifar10"
hours = 0.9
parts = 2
set = { "schedule.epochs" = 3, "model.width" = 8, "model.blocks" = 1, "data.held_back" = 20, "schedule.batch" = 8 }

[[run]]
recipe = "cbam-cifar10"
hours = 0.1
set = { "schedule.epochs" = 1, "model.width" = 8, "model.blocks" = 1, "data.held_back" = 20, "schedule.batch" = 8 }
vary = { "model.attention" = [true, false] }
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cifar10(tmp_path_factory.mktemp("data"))


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(QUEUE, encoding="utf-8")
    return path


def test_entries_expand_to_parts_and_variations(queue: Path) -> None:
    parts = read_queue(str(queue))
    assert [(part.first_epoch, part.epochs) for part in parts] == [(0, 2), (2, 3), (0, 1), (0, 1)]
    assert len({part.folder for part in parts}) == 3, "two parts of one run share its folder"
    assert [part.changes["model.attention"] for part in parts[2:]] == [True, False]
    assert sum(part.hours for part in parts) == pytest.approx(0.9 + 2 * 0.1)


def test_a_gpu_queue_has_a_separate_order(queue: Path) -> None:
    first, second = QUEUE.split("[[run]]")[1:]
    queue.write_text(f"[[run]]{first}gpu_rank = 2\n[[run]]{second}gpu_rank = 1\n[[run]]{first}", encoding="utf-8")
    assert [part.hours for part in read_queue(str(queue), "cuda")] == pytest.approx([0.1, 0.1, 0.9]), "a run has one part"
    assert len(read_queue(str(queue))) == 6


def test_no_part_of_the_shipped_queues_is_longer_than_two_hours() -> None:
    shipped = [part for file in QUEUES.glob("*.toml") for part in read_queue(file.stem)]
    assert shipped
    assert [part.folder for part in shipped if part.hours > 2] == []


def test_the_queue_has_all_runs_that_the_gains_read() -> None:
    folders = {part.folder for part in read_queue("four-models")}
    pairs = itertools.product(classification.SEEDS, (True, False))
    wanted = {
        folder_name(classification.RECIPE, {"schedule.epochs": classification.EPOCHS, "seed": seed, "model.attention": attention})
        for seed, attention in pairs
    }
    wanted |= {
        folder_name(segmentation.RECIPE, {"model.block": block, "seed": seed})
        for block, seed in itertools.product(segmentation.BLOCKS, segmentation.SEEDS)
    }
    assert wanted <= folders


def test_what_is_left_is_told_from_the_folders(queue: Path, tmp_path: Path) -> None:
    parts, runs = read_queue(str(queue)), tmp_path / "runs"
    runner = QueueRunner(parts, tmp_path, runs)
    assert runner.hours_left() == pytest.approx(1.1)
    folder = runs / parts[0].folder
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps({"epochs": 2.5, "of": 3}))
    assert [part.share_done(runs) for part in parts[:2]] == [1.0, 0.5]
    (folder / "progress.json").write_text(json.dumps({"epochs": 3.0, "of": 3}))
    assert parts[1].share_done(runs) < 1, "it has no summary yet"
    (folder / "summary.json").write_text("{}")
    assert parts[1].share_done(runs) == 1.0
    assert runner.hours_left() == pytest.approx(0.2)


@pytest.mark.timeout(400)
def test_a_queue_runs_what_is_not_finished_whatever_fails(queue: Path, data: Path, tmp_path: Path) -> None:
    right = QUEUE.replace("[true, false]", "[false]")  # the least number of processes
    wrong = right.replace('"model.width" = 8', '"model.width" = 9', 1)
    queue.write_text(wrong, encoding="utf-8")
    runs = tmp_path / "runs"
    failed = QueueRunner(read_queue(str(queue)), data, runs, jobs=2).run()
    assert [part.changes["model.width"] for part in failed] == [9], "its second part is not tried"
    assert "multiple" in (runs / failed[0].folder / "output.log").read_text()
    finished = {path: path.stat().st_mtime_ns for path in runs.glob("*/summary.json")}
    assert len(finished) == 1
    queue.write_text(right, encoding="utf-8")
    runner = QueueRunner(read_queue(str(queue)), data, runs)
    assert runner.run() == []
    assert runner.hours_left() == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "nothing is run twice"


ENDLESS = re.sub(r'"schedule.epochs" = 3', '"schedule.checkpoint_seconds" = 0.0, "schedule.epochs" = 100000', QUEUE)


def wait_for(condition: Callable[[], bool]) -> None:
    """Waits, at most until the test's own limit: the runs have the lowest priority on a busy machine."""
    while not condition():
        time.sleep(0.05)


@pytest.mark.timeout(400)
def test_a_queue_whose_time_is_over_stops_the_run_under_way(queue: Path, data: Path, tmp_path: Path) -> None:
    queue.write_text(ENDLESS, encoding="utf-8")
    runs, parts = tmp_path / "runs", read_queue(str(queue))
    runner = QueueRunner(parts, data, runs, is_over=(runs / parts[0].folder / "progress.json").exists)
    assert runner.run() == []
    assert "stopped in epoch" in (runs / parts[0].folder / "output.log").read_text()
    assert [path.name for path in runs.iterdir() if path.is_dir()] == [parts[0].folder], "no other run is started"


@pytest.mark.timeout(400)
def test_a_signal_stops_a_queue_and_the_next_one_goes_on(queue: Path, data: Path, tmp_path: Path) -> None:
    queue.write_text(ENDLESS, encoding="utf-8")
    runs = tmp_path / "runs"
    folder = runs / read_queue(str(queue))[0].folder
    command = [sys.executable, "-m", "attnserve_export", "train", "--queue", str(queue), "--data", str(data), "--runs", str(runs)]
    for is_under_way in ((folder / "progress.json").exists, lambda: "resumed at epoch" in (folder / "output.log").read_text()):
        child = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True)
        try:
            wait_for(is_under_way)
            assert (runs / "queue.lock").read_text() == f"{child.pid}\n"
            with pytest.raises(RecipeError, match="another queue"):
                QueueRunner([], data, runs).run()
            child.send_signal(signal.SIGTERM)
            _, said = child.communicate()
        finally:
            child.kill()
        assert child.returncode == 0, said
        assert "0 runs failed" in said
    assert not list(runs.glob("*/summary.json"))


def test_a_lock_is_left_when_the_queue_ends(queue: Path, tmp_path: Path) -> None:
    QueueRunner([], tmp_path, tmp_path / "runs").run()
    with (tmp_path / "runs" / "queue.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert lock.read() == f"{os.getpid()}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [(QUEUE.replace("hours = 0.1", "hour = 1"), "hour"), ("[[run]", "small"), (QUEUE.replace("cbam", "cabm"), "cabm")],
)
def test_a_wrong_queue_is_refused(queue: Path, text: str, message: str) -> None:
    queue.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        read_queue(str(queue))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "recipe or --queue"),
        (["train", "cbam-cifar10", "--queue", "four-models"], "recipe or --queue"),
        (["train", "--queue", "none-such"], "no queue"),
        (["train", "cbam-cifar10", "--set", "seed"], "KEY=VALUE"),
        (["train", "cbam-cifar10", "--taught", "file"], "teacher"),
    ],
)
def test_a_wrong_command_is_refused(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")  # otherwise the command would start the process again
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.replace("│", " ").split())


def test_a_list_of_a_queue_says_what_is_left(queue: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "--queue", str(queue), "--list", "--runs", str(tmp_path / "runs")])
    assert result.exit_code == 0
    assert "1.1 hours of one core are left" in result.output
    assert not (tmp_path / "runs").exists()
