# SPDX-License-Identifier: Apache-2.0
"""Every command with a standard stream that is ASCII, closed, full, or a pipe that nothing reads: it works, or says why in one line."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import typer.main
from PIL import Image

from attnserve_client.cli.app import build_app
from tests.fakes.server import FakeServer
from tests.labelled import write_camvid, write_cifar10
from tests.unit.client.stream_runs import CASES

ROOT = Path(__file__).parents[3]

COMMANDS = {
    "translate": ["translate", "ein Hünd 🐶"],
    "translate lines": ["translate"],
    "translate --stream": ["translate", "ein Hünd 🐶", "zwei", "--stream"],
    "translate --json": ["translate", "ein Hünd 🐶", "--json"],
    "translate --show-attention": ["translate", "ein Hünd 🐶", "--show-attention"],
    "models": ["models"],
    "models --json": ["models", "--json"],
    "health": ["health"],
    "caption": ["caption", "{folder}"],
    "segment": ["segment", "{folder}/phötö.png"],
    "segment folder": ["segment", "{folder}"],
    "classify": ["classify", "{folder}/phötö.png"],
    "classify folder": ["classify", "{folder}"],
    "classify-video": ["classify-video", "{folder}/clïp.mp4"],
    "generate": ["generate", "--class", "cat", "--seed", "1", "--out", "{folder}/grid.png"],
    "evaluate video": ["evaluate", "video", "--data", "{folder}"],
    "evaluate video-skew": ["evaluate", "video-skew", "--data", "{folder}"],
    "evaluate generation": ["evaluate", "generation", "--samples", "1"],
    "evaluate segmentation": ["evaluate", "segmentation", "--data", "{folder}"],
    "evaluate classification": ["evaluate", "classification", "--data", "{folder}"],
    "evaluate translation": ["evaluate", "translation", "--data", "{folder}", "--split", "val"],
    "evaluate caption": ["evaluate", "caption", "--data", "{folder}"],
    "evaluate lengths": ["evaluate", "lengths", "--data", "{folder}", "--split", "val", "--bins", "1", "--model", "fake-en-de"],
    "evaluate gain": ["evaluate", "gain", "--model", "a", "--against", "b", "--data", "{folder}", "--split", "val"],
    "evaluate alignment": ["evaluate", "alignment", "--data", "{folder}", "--split", "val"],
    "serve": ["serve", "--print-config"],
    "debug": ["debug", "999999999"],
    "profile": ["profile", "seq2seq-en-de", "--runs", "1", "--models", "deploy/models"],
    "train": ["train", "--queue", "four-models", "--list"],
    "export": ["export", "no-such-model", "--models", "{folder}"],
    "": ["--help"],
}
FAILING = (
    "evaluate alignment",
    "evaluate caption",
    "evaluate gain",
    "evaluate segmentation",
    "evaluate classification",
    "evaluate video",
    "evaluate video-skew",
    "evaluate generation",
    "export",
    "debug",
)
"""Commands that end with an error, for the fake has no such model, and there is no such run or process."""
WHOLE = ("translate lines", "models", "serve")
"""Commands that run with every case; the others run with the cases of standard output."""
SLOW = ("profile", "train", "export")
"""Commands that import large libraries."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos and data sets of one item, with a name that is not ASCII."""
    found = tmp_path / "dätä"
    (found / "multi30k").mkdir(parents=True)
    for language in ("en", "de"):
        with gzip.open(found / "multi30k" / f"val.{language}.gz", "wt", encoding="utf-8") as file:
            file.write("ein Hünd\n")
    photo = io.BytesIO()
    Image.new("RGB", (64, 64)).save(photo, "PNG")
    (found / "phötö.png").write_bytes(photo.getvalue())
    (found / "clïp.mp4").write_bytes(b"a clip")
    (found / "flickr8k").mkdir()
    with tarfile.open(found / "flickr8k" / "dev.tar", "w") as archive:
        archive.add(found / "phötö.png", "a.png")
    (found / "flickr8k" / "captions.json").write_text(json.dumps({"dev": {"a.png": ["a dog runs"] * 5}}))
    labels = io.BytesIO()
    Image.new("L", (64, 64)).save(labels, "PNG")
    write_camvid(found, {"a": (photo.getvalue(), labels.getvalue())})
    write_cifar10(found, [photo.getvalue()], [0])
    return found


def runs_of(name: str, cases: list[str], folder: Path, server: FakeServer) -> dict[str, tuple[int, str, str]]:
    """Runs a command once for each case; returns exit codes, output and errors."""
    arguments = [each.format(folder=folder) for each in COMMANDS[name]]
    environment = {**os.environ, "ATTNSERVE_ADDRESS": server.address, "COLUMNS": "100", "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"}
    environment.pop("ATTNSERVE_DATA", None)
    command = [sys.executable, "-m", "tests.unit.client.stream_runs", json.dumps(cases), str(folder), *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100)
    found = {case: tuple(ended) for case, ended in json.loads(done.stdout).items()}
    for case, (_, _, err) in found.items():
        assert "Traceback" not in err, (case, err)
        assert "Exception ignored" not in err, (case, err)
    return found


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.load] if name in SLOW else []) for name in COMMANDS])
def test_command_with_streams_that_cannot_be_used(name: str, folder: Path, server: FakeServer) -> None:
    cases = (
        list(CASES) if name in WHOLE else ["full", "closed output"] if name in SLOW else ["ascii", "closed output", "full", "pipe"]
    )
    ends = runs_of(name, cases, folder, server)
    worked = 1 if name in FAILING else 0
    for case, (code, out, err) in ends.items():
        lines = err.splitlines()
        if case == "ascii":
            assert (code, out.isascii()) == (worked, True), err
        elif case == "pipe":
            assert (code, out) == (1, "")
            assert len(lines) <= 1
        elif case in ("full", "closed output"):
            assert (code, out, len(lines)) == (1, "", 1), err
            assert err.startswith("error: ")
        elif case == "closed input" and name == "translate lines":
            assert (code, out, err) == (1, "", "error: standard input cannot be read: Bad file descriptor\n")
        elif case in ("closed input", "closed errors", "full errors"):
            assert code == worked, err
        else:
            assert (case, code) == ("closed", 1)


def test_every_command_is_there() -> None:
    def walk(command: object, name: str) -> set[str]:
        inner = getattr(command, "commands", None)
        return {name} if inner is None else set().union(*(walk(each, f"{name} {key}".strip()) for key, each in inner.items()))

    assert walk(typer.main.get_command(build_app()), "") <= set(COMMANDS)
