# SPDX-License-Identifier: Apache-2.0
"""No usage data is sent: no part writes an identifier into HOME, and all commands work without a network."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import typer.main
from PIL import Image

from attnserve_client.cli.app import build_app
from attnserve_client.demo.steps import CLIP
from tests.e2e.captioning import PHOTO
from tests.e2e.offline import SERVER_PID
from tests.e2e.serving import MODELS, SENTENCES, ask, serve
from tests.labelled import write_camvid, write_cifar10, write_fight_video

ROOT = Path(__file__).parents[2]
HAS_GENERATOR = (MODELS / "sagan-cifar10").exists()
"""Whether the repository has the model that two of the commands need."""
WATCHED = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
"""Variables by which ONNX Runtime decides whether and where it writes."""


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HOME, and no variable that would keep ONNX Runtime from writing there."""
    for name in WATCHED:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_server_writes_nothing_into_home(home: Path, tmp_path: Path) -> None:
    with serve(tmp_path / "server", "--workers", "1") as server, server.channel() as channel:
        ask(channel, SENTENCES[0])
        assert files_in(home) == []
    assert files_in(home) == []


USERS = ["attnserve_server.execution.session", "attnserve_export.parity_runner", "attnserve_loadtest.gpu.device", "tests.conftest"]
"""A module of each package that uses ONNX Runtime; importing it alone once wrote two files."""


@pytest.mark.parametrize("module", USERS)
def test_import_of_onnxruntime_writes_nothing_into_home(home: Path, module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {module}, onnxruntime"], check=True, cwd=ROOT)
    assert files_in(home) == []


def test_every_package_that_imports_onnxruntime_is_tested() -> None:
    folders = [ROOT / "server", ROOT / "export", ROOT / "loadtest", ROOT / "clients/python"]
    importing = {
        path.relative_to(folder).parts[0]
        for folder in folders
        for path in folder.rglob("*.py")
        if "import onnxruntime" in path.read_text(encoding="utf-8")
    }
    assert importing == {module.split(".")[0] for module in USERS[:-1]}


def commands() -> set[str]:
    """The whole command line: "translate", "evaluate lengths" and so on."""

    def walk(command: object, name: str) -> set[str]:
        inner = getattr(command, "commands", None)
        return {name} if inner is None else set().union(*(walk(each, f"{name} {key}".strip()) for key, each in inner.items()))

    return walk(typer.main.get_command(build_app()), "")


def arguments(folder: Path) -> dict[str, list[str]]:
    """Arguments with which each command but `serve` does its work, with data sets of a few lines in ``folder``."""
    (folder / "multi30k").mkdir()
    for language in ("en", "de"):
        with gzip.open(folder / "multi30k" / f"val.{language}.gz", "wt", encoding="utf-8") as file:
            file.write("a dog runs .\ntwo men walk .\n" if language == "en" else "ein hund läuft .\nzwei männer gehen .\n")
    (folder / "flickr8k").mkdir()
    with tarfile.open(folder / "flickr8k" / "dev.tar", "w") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = len(PHOTO)
        archive.addfile(member, io.BytesIO(PHOTO))
    (folder / "flickr8k" / "captions.json").write_text(json.dumps({"dev": {"a.jpg": ["a dog runs"] * 5}}))
    (folder / "photo.jpg").write_bytes(PHOTO)
    labels = io.BytesIO()
    with Image.open(io.BytesIO(PHOTO)) as photo:
        Image.new("L", photo.size).save(labels, "PNG")
    write_camvid(folder, {"a": (PHOTO, labels.getvalue())})
    write_cifar10(folder, [PHOTO], [1])
    write_fight_video(folder)
    shutil.copytree(MODELS / "seq2seq-en-de", folder / "models" / "seq2seq-en-de")
    data = ["--data", str(folder)]
    generation = {
        "generate": ["--class", "ship", "--out", str(folder / "ship.png"), "--attention", str(folder / "ship-attention.png")],
        "evaluate generation": ["--samples", "10"],
    }
    return {
        **{name: rest for name, rest in generation.items() if HAS_GENERATOR},
        "translate": ["A dog runs.", "--attention", str(folder / "attention.png")],
        "caption": [str(folder / "photo.jpg"), "--attention", str(folder / "caption.png")],
        "segment": [str(folder / "photo.jpg"), "--overlay", str(folder / "overlay.png"), "--attention", str(folder / "maps.png")],
        "classify": [str(folder / "photo.jpg"), "--attention", str(folder / "blocks.png")],
        "classify-video": [str(CLIP), "--attention", str(folder / "frames.png")],
        "models": [],
        "debug": [SERVER_PID],
        "health": [],
        "evaluate translation": [*data, "--split", "val"],
        "evaluate caption": data,
        "evaluate segmentation": data,
        "evaluate classification": data,
        "evaluate video": data,
        "evaluate video-skew": [*data, "--limit", "1"],
        "evaluate gain": [*data, "--split", "val", "--model", "transformer-en-de", "--against", "seq2seq-en-de"],
        "evaluate lengths": [*data, "--split", "val", "--bins", "1", "--plot", str(folder / "lengths.png")],
        "evaluate alignment": [*data, "--split", "val", "--plot", str(folder / "alignment.png")],
        "profile": ["transformer-en-de", "--runs", "1"],
        "train": ["--queue", "four-models", "--list"],
        "export": ["seq2seq-en-de", "--golden", "--models", str(folder / "models")],
    }


def may_unshare() -> bool:
    """Whether this process may make a network and mounts of its own."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        return False
    test = "ip link set lo up && mount -t tmpfs -o ro none /mnt"
    return subprocess.run(["unshare", "-n", "-m", "sh", "-c", test], capture_output=True, check=False).returncode == 0


def test_every_command_has_arguments(tmp_path: Path) -> None:
    assert commands() == {*arguments(tmp_path), "serve"} | (set() if HAS_GENERATOR else {"generate", "evaluate generation"})


@pytest.mark.load
@pytest.mark.timeout(600)
def test_every_command_works_without_a_network_and_with_an_empty_home(home: Path, tmp_path: Path) -> None:
    if not may_unshare():
        pytest.skip("this process may not have a network of its own")
    given = arguments(tmp_path)
    lists = [[*name.split(), *rest] for name, rest in given.items()]
    program = ["unshare", "-n", "-m", sys.executable, "-m", "tests.e2e.offline", str(home), str(MODELS), json.dumps(lists)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "COLUMNS": "200"})
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert {name: result for name, result in zip([*given, "serve"], results, strict=True) if result[0]} == {}
