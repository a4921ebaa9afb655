# SPDX-License-Identifier: Apache-2.0
"""``attnserve segment`` and ``attnserve classify``, from their arguments to what they print and write."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnserve_client.cli import main
from tests.fakes.server import FakeServer
from tests.fakes.single_pass import class_map_of
from tests.unit.client.pictures import file_of


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> None:
    """Sets the fake server as the default one, and removes the machine's own settings."""
    monkeypatch.setenv("ATTNSERVE_ADDRESS", server.address)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE", "ATTNSERVE_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    path.write_bytes(file_of("white", (60, 40)))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in (("b.JPG", file_of("lime", (8, 8))), ("a.png", file_of("red", (4, 4))), ("bad.webp", b"bad")):
        (folder / name).write_bytes(data)
    return folder


def test_segment_prints_a_table_of_the_classes(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", str(photo)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["class", "share", "confidence"], ["██", "Sky", "50.0", "%", "0.75"], ["██", "Road", "50.0", "%", "0.75"],
    ]  # fmt: skip


def test_swatches_have_the_colour_of_the_class(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert main(["segment", str(photo)]) == 0
    assert "38;2;128;64;128" in capsys.readouterr().out


def test_segment_writes_its_files(photo: Path, tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    overlay, class_map, maps = (tmp_path / name for name in ("overlay.jpg", "map.png", "attention.png"))
    arguments = ["segment", str(photo), "--overlay", str(overlay), "--map", str(class_map), "--attention", str(maps)]
    arguments += ["--query", "5,3", "--query", "50, 30", "--model", "m", "--priority", "2", "--json"]
    assert main(arguments) == 0
    request = server.segmentation.requests[0]
    assert (request.model, request.priority, request.return_unary) == ("m", 2, True)
    assert [(each.x, each.y) for each in request.queries] == [(5, 3), (50, 30)]
    result = json.loads(capsys.readouterr().out)
    assert (result["image"], result["width"], result["height"], result["model"]) == (str(photo), 60, 40, "m")
    assert "class_map" not in result
    assert result["classes"][1] == {"index": 1, "name": "Road", "colour": [128, 64, 128], "share": 0.5, "confidence": 0.75}
    assert np.array(result["attention"]["pairwise"][1]["weights"])[7, 12] == 1
    with Image.open(class_map) as image:
        assert (np.asarray(image) == class_map_of(60, 40)).all()
    with Image.open(overlay) as image:
        assert (image.format, image.size) == ("JPEG", (60, 40))
    with Image.open(maps) as image:
        assert image.size[0] > 700  # two tiles beside each other


def test_segment_of_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maps = tmp_path / "maps"
    assert main(["segment", str(folder), "--map", str(maps)]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [f"{folder / name}\tSky 50.0 %, Road 50.0 %" for name in ("a.png", "b.JPG")]
    assert "bad.webp" in shown.err
    assert "1 of 3 images could not be segmented" in shown.err
    assert sorted(path.name for path in maps.iterdir()) == ["a.png.png", "b.JPG.png"]
    with Image.open(maps / "b.JPG.png") as image:
        assert image.size == (8, 8)


def test_an_option_that_is_wrong_for_all_images_ends_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", str(folder), "--json", *(f"--query={column},1" for column in range(17))]) == 1
    error = capsys.readouterr().err
    assert error.count("--query must be at most 16") == 1
    assert "could not be segmented" not in error


@pytest.mark.parametrize("command", ["segment", "classify", "caption", "translate", "classify-video", "generate"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "--attention must name a file, and {} is a folder"),
        ("none/a.png", "cannot write {}: there is no folder"),
        ("a", "--attention must name a file with a suffix, such as a.png"),
    ],
)
def test_file_that_cannot_be_drawn_into_is_refused_before_any_call(
    command: str, name: str, text: str, photo: Path, tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    file, subject = tmp_path / name, ["--class", "dog"] if command == "generate" else [str(photo)]
    assert main([command, *subject, "--attention", str(file)]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert text.format(file) in shown.err
    assert not server.translation.requests


@pytest.mark.parametrize(("command", "option"), [("segment", "--query=1,2"), ("classify-video", "--at=1,0.5,0.5")])
def test_position_that_nothing_would_show_is_refused(
    command: str, option: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(photo), option]) == 2
    assert "it takes --attention or --json" in capsys.readouterr().err


def test_wrong_use_of_segment(
    photo: Path, folder: Path, tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("5", "a,b", "1,2,3", "-1,2"):
        assert main(["segment", str(photo), f"--query={text}"]) == 2
        assert "such as 120,200" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert main(["segment", str(folder / "a.png"), str(folder / "a.png"), "--map", str(tmp_path / "maps")]) == 2
    assert main(["segment", str(folder / "a.png"), str(folder / "b.JPG"), "--map", str(photo)]) == 1
    assert "--map names a folder" in capsys.readouterr().err
    assert not server.segmentation.requests
    assert main(["segment", str(photo), "--map", str(tmp_path / "map.jpg")]) == 1
    assert "as PNG, not as .jpg" in " ".join(capsys.readouterr().err.split())
    assert main(["segment", str(tmp_path / "nowhere.png")]) == 1
    assert "no file or folder" in capsys.readouterr().err
    assert main(["segment", str(folder / "bad.webp")]) == 1
    assert "image is bad" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "library"), [("segment", "matplotlib"), ("classify", "PIL")])
def test_the_extra_that_drawing_needs_is_named(
    command: str, library: str, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [
        name for name in sys.modules if name.startswith(("attnserve_client.segmentation_", "attnserve_client.classification_"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "attnserve_client.pictures", raising=False)
    monkeypatch.delitem(sys.modules, "attnserve_client.attention_plot", raising=False)
    server_less = ["--attention", str(tmp_path / "maps.png")]
    if command == "classify":
        monkeypatch.setattr("tests.fakes.single_pass.classify_answer", lambda request: _answer())
    assert main([command, str(photo), *server_less]) == 1
    assert "attnserve[cli]" in " ".join(capsys.readouterr().err.split())


def _answer() -> object:
    from attnserve.v1 import classification_pb2

    response = classification_pb2.ClassifyImageResponse()
    response.classes.add(name="cat", probability=1.0)
    return response


def test_classify(photo: Path, server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo.write_bytes(file_of("lime"))
    assert main(["classify", str(photo), "--top-k", "2", "--attention", str(tmp_path / "maps.png"), "--priority", "-1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["dog", "70.0"], ["cat", "20.0"]]
    assert (lines[0].count("█"), lines[1].count("█")) == (21, 6)
    request = server.classification.requests[0]
    assert (request.top_k, request.return_attention, request.priority) == (2, True, -1)
    assert (tmp_path / "maps.png").stat().st_size > 1000
    assert main(["classify", str(photo), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["image"], result["classes"][0]["name"], result["attention"]) == (str(photo), "dog", [])
    assert server.classification.requests[-1].return_attention is False


def test_classify_of_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(folder), "--top-k", "1", "--attention", str(tmp_path / "maps.png")]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [f"{folder / 'a.png'}\tcat 70.0 %", f"{folder / 'b.JPG'}\tdog 70.0 %"]
    assert "1 of 3 images could not be classified" in shown.err
    assert (tmp_path / "maps.png").exists()
    many = [str(folder / "a.png")] * 21
    assert main(["classify", *many, "--attention", str(tmp_path / "x.png")]) == 2
    assert "at most 20 images" in " ".join(capsys.readouterr().err.split())
