# SPDX-License-Identifier: Apache-2.0
"""The load test against a real server: it counts what the server counts, and its exit code follows the objectives."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.serving import Samples, Server

SECONDS = "2"


def load(server: Server, results: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "attnserve_loadtest",
        "--address",
        server.target,
        "--results",
        str(results),
        "--seconds",
        SECONDS,
    ]
    command += ["--metrics-url", f"http://127.0.0.1:{server.http_port}/metrics", "--users", "4"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LOCUST_", "ATTNSERVE_"))}
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=100, env=environment, check=False)
    print(done.stdout[-3000:], done.stderr[-3000:])
    return done


def answered(before: Samples, after: Samples, method: str) -> float:
    name, labels = "attnserve_requests_total", {"method": method, "code": "OK"}
    return after.total(name, **labels) - before.total(name, **labels)


def events_of(results: Path) -> dict[str, dict[str, Any]]:
    return {row["event"]: row for row in json.loads((results / "loadtest.json").read_text())["events"]}


@pytest.mark.load
@pytest.mark.parametrize(
    "options", [(), ("--rate", "40"), ("--rate", "60", "--users", "8", "--workers", "2", "--shape", "step_load")]
)
def test_both_sides_count_the_same(server: Server, tmp_path: Path, options: tuple[str, ...]) -> None:
    before = server.scrape()
    done = load(server, tmp_path, "--no-sweep", "--slo", "errors<0.1", "--slo", "Translate:p99<60000", *options)
    assert done.returncode == 0
    after, events = server.scrape(), events_of(tmp_path)
    for name in ("Translate", "TranslateStream"):
        assert events[name]["errors"] == 0
        assert events[name]["count"] > 5
        # those that Locust cut off at the end, one of each user, were cancelled, or answered after it had stopped reading
        assert 0 <= answered(before, after, name) - events[name]["count"] <= (8 if "--users" in options else 4)
    assert events["TranslateStream first piece"]["count"] >= events["TranslateStream"]["count"]
    assert events["TranslateStream between pieces"]["count"] > events["TranslateStream"]["count"]
    comparisons = json.loads((tmp_path / "loadtest.json").read_text())["comparisons"]
    assert {each["event"] for each in comparisons} >= {"Translate", "TranslateStream", "TranslateStream first piece"}
    for each in comparisons:
        apart = abs(each["client"] - each["server"]["value"]) > 0.1 * max(each["client"], each["server"]["value"])
        assert bool(each["reason"]) == apart
    with (tmp_path / "loadtest.csv").open() as file:
        assert {row["event"] for row in csv.DictReader(file)} == set(events)
    assert "Clients beside server" in (tmp_path / "loadtest.html").read_text()
    if "--rate" in options:
        assert events["Translate late start"]["count"] == events["Translate"]["count"]


def test_a_missed_objective_is_the_exit_code(server: Server, tmp_path: Path) -> None:
    done = load(server, tmp_path, "--no-sweep", "--kind", "unary", "--slo", "Translate:p50<0.01", "--slo", "errors<1")
    assert done.returncode == 1
    assert "MISSED: Translate:p50<0.01" in done.stdout
    assert "met: errors<1" in done.stdout


def test_what_cannot_be_done_is_said(server: Server, tmp_path: Path) -> None:
    bad = load(server, tmp_path, "--no-sweep", "--slo", "latency<5")
    assert bad.returncode == 2
    assert "no measure 'latency'" in bad.stderr + bad.stdout
    assert load(server, tmp_path, "--shape", "wave").returncode == 2
    assert load(server, tmp_path, "--kind", "pictures").returncode == 2


def test_a_server_that_is_not_there_is_counted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attnserve_loadtest", "--address", "127.0.0.1:1", "--results", str(tmp_path), "--seconds", "2"]
    done = subprocess.run(
        [*command, "--no-sweep", "--kind", "unary", "--slo", "errors<1"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    number = json.loads((tmp_path / "loadtest.json").read_text())["errors"]["Translate"]["UNAVAILABLE"]
    assert number > 0
    assert f"Translate failed: {number} times with UNAVAILABLE\n" in done.stdout


@pytest.mark.load
def test_sweep_of_the_hot_path(server: Server, tmp_path: Path) -> None:
    done = load(server, tmp_path, "--seconds", "1", "--quick")
    assert done.returncode == 0
    points = json.loads((tmp_path / "hot-path.json").read_text())
    assert {(each["source_pieces"], each["attention"], each["beam_size"]) for each in points} == {
        (length, attention, beam) for length in (4, 32) for attention in ("none", "mean", "all") for beam in (1, 4)
    }
    assert all(each["p50_ms"] > each["step_ms"] > 0 for each in points)
    assert all(0.1 < each["self_share"] + each["cross_share"] < 0.95 for each in points)
    shares = {(each["source_pieces"], each["attention"], each["beam_size"]): each["cross_share"] for each in points}
    assert shares[32, "mean", 1] > shares[32, "none", 1], "the attention that is asked for costs nothing"
    assert (tmp_path / "hot-path.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(csv.DictReader((tmp_path / "hot-path.csv").open()))) == len(points)


def test_a_server_that_is_not_there_cannot_be_swept(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attnserve_loadtest", "--address", "127.0.0.1:1", "--results", str(tmp_path), "--seconds", "1"]
    done = subprocess.run([*command, "--kind", "unary"], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.load
def test_captions_and_translations_at_once(server: Server, tmp_path: Path) -> None:
    before = server.scrape()
    objectives = ("--slo", "errors<0.1", "--slo", "Caption:p99<10000")
    done = load(server, tmp_path, "--no-sweep", "--kind", "mixed", "--users", "6", "--seconds", "10", *objectives)
    assert done.returncode == 0
    events = events_of(tmp_path)
    for name in ("Translate", "TranslateStream", "Caption"):
        assert events[name]["errors"] == 0
        assert 5 < events[name]["count"] <= answered(before, server.scrape(), name) <= events[name]["count"] + 6


@pytest.mark.load
def test_images_of_all_services_at_once(server: Server, tmp_path: Path) -> None:
    before = server.scrape()
    done = load(server, tmp_path, "--no-sweep", "--kind", "images", "--users", "6", "--seconds", "10", "--slo", "errors<0.1")
    assert done.returncode == 0
    events, after = events_of(tmp_path), server.scrape()
    for name in ("Caption", "Segment", "ClassifyImage"):
        assert events[name]["errors"] == 0
        assert 5 < events[name]["count"] <= answered(before, after, name) <= events[name]["count"] + 6
    comparisons = json.loads((tmp_path / "loadtest.json").read_text())["comparisons"]
    assert {each["event"] for each in comparisons} >= {"Caption", "Segment", "ClassifyImage"}
