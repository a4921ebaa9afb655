# SPDX-License-Identifier: Apache-2.0
"""Classification of clips by both clients and the command line, against a fake server; clips as files; the picture."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnserve.v1 import manifest_pb2
from attnserve_client import AttnserveError, ExtraMissing, InvalidRequest
from attnserve_client.cli import clips, main
from attnserve_client.demo import clip as demo_clip
from attnserve_client.video_plot import draw_frames, save_frames
from tests.clips import needs_decoder
from tests.fakes.server import FakeServer, model_of
from tests.labelled import write_fight_video
from tests.unit.client.pictures import file_of


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> None:
    monkeypatch.setenv("ATTNSERVE_ADDRESS", server.address)
    monkeypatch.setenv("COLUMNS", "100")
    server.models.models = [model_of("fake-video", manifest_pb2.TASK_VIDEO_CLASSIFICATION)]
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE", "ATTNSERVE_DATA"):
        monkeypatch.delenv(name, raising=False)


def test_a_file_or_frames_are_sent(client: Any, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"film")
    answer = client.classify_video(tmp_path / "clip.mp4", model="m", top_k=2, priority=1)
    assert [each.name for each in answer.classes] == ["fast", "slow"]
    assert (answer.best.name, answer.clip_frames, answer.model, answer.attention) == ("fast", 40, "m", ())
    assert [(frame.index, frame.seconds, frame.time) for frame in answer.frames] == [
        (0, 0, 0),
        (10, 0.5, 0),
        (20, 1, 1),
        (30, 1.5, 1),
    ]
    assert client.classify_video([file_of("red"), file_of("lime")]).best.name == "still"
    first, second = server.classification.requests
    assert (first.video, list(first.frames), first.top_k, first.priority) == (b"film", [], 2, 1)
    assert (second.video, list(second.frames)) == (b"", [file_of("red"), file_of("lime")])


def test_attention_has_a_map_for_each_position(client: Any) -> None:
    answer = client.classify_video(b"film", queries=[(0, 0.0, 0.0), (3, 1.0, 0.6)], return_pictures=True)
    assert [(each.query, each.cell) for each in answer.attention] == [((0, 0.0, 0.0), (0, 0, 0)), ((3, 1.0, 0.6), (1, 1, 2))]
    for each in answer.attention:
        assert each.weights.shape == (2, 2, 3)
        assert each.weights[each.cell] == each.weights.sum() == 1
        assert not each.weights.flags.writeable
    assert all(frame.picture for frame in answer.frames)


@pytest.mark.parametrize("queries", [[(0, 0.5)], [("a", 0.5, 0.5)], [(-1, 0.5, 0.5)], [None]])
def test_positions_that_cannot_be_sent_name_their_field(client: Any, queries: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        client.classify_video(b"film", queries=queries)
    assert raised.value.field == "queries"


def test_errors_of_the_server(client: Any) -> None:
    with pytest.raises(ExtraMissing, match="PyAV") as raised:
        client.classify_video(b"no decoder")
    assert (raised.value.code, raised.value.field) == ("FAILED_PRECONDITION", "video")
    found = list(client.classify_video_many([b"film", b"bad", Path("/nowhere.mp4")]))
    assert [type(each).__name__ for each in found] == ["VideoClassification", "InvalidRequest", "InvalidRequest"]


FAULTS: dict[str, Callable[[Any], object]] = {
    "no class": lambda response: response.ClearField("classes"),
    "too few weights": lambda response: response.attention.maps[0].weights.pop(),
    "a cell outside": lambda response: setattr(response.attention.maps[0], "cell", 12),
    "a time outside": lambda response: setattr(response.frames[0], "time", 2),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_answer_that_violates_the_protocol(client: Any, server: FakeServer, name: str) -> None:
    server.classification.alter = FAULTS[name]
    with pytest.raises(AttnserveError) as raised:
        client.classify_video(b"film", queries=[(0, 0.5, 0.5)])
    assert raised.value.code == "INTERNAL"


def test_the_picture_has_all_frames_for_each_position(client: Any, tmp_path: Path) -> None:
    plain = draw_frames(client.classify_video(b"film", return_pictures=True))
    answer = client.classify_video(b"film", queries=[(0, 0.1, 0.1), (3, 0.9, 0.9)], return_pictures=True)
    assert (len(plain.axes), len(draw_frames(answer).axes)) == (4, 8)
    size = save_frames(tmp_path / "frames.png", answer)
    with Image.open(tmp_path / "frames.png") as image:
        assert image.size == size
    with pytest.raises(ValueError, match="return_pictures=True"):
        draw_frames(client.classify_video(b"film"))


def test_command_prints_classes_and_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"film")
    assert main(["classify-video", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["fast", "70.0"], ["slow", "20.0"], ["still", "10.0"]]
    assert lines[3] == "4 of 40 frames, to 1.50 s"
    assert main(["classify-video", str(path), "--json", "--at", "1,0.5,0.25"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["classes"][0]["name"], found["attention"][0]["query"]) == ("fast", [1, 0.5, 0.25])
    assert "picture" not in found["frames"][0]
    assert main(["classify-video", str(path), "--attention", str(tmp_path / "frames.png")]) == 0
    assert (tmp_path / "frames.png").stat().st_size > 1000
    assert [(each.frame, each.x, each.y) for each in server.classification.requests[-1].queries] == [(15, 0.5, 0.5)]


def test_command_sends_the_images_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_bytes(file_of("red" if name == "a.png" else "lime"))
    assert main(["classify-video", str(tmp_path)]) == 0
    assert "2 of 2 frames" in capsys.readouterr().out
    assert list(server.classification.requests[0].frames) == [file_of("red"), file_of("lime")]


def test_command_sends_numbered_frames_in_the_order_of_their_numbers(tmp_path: Path, server: FakeServer) -> None:
    for number, colour in ((10, "blue"), (2, "lime"), (1, "red")):
        (tmp_path / f"frame{number}.png").write_bytes(file_of(colour))
    assert main(["classify-video", str(tmp_path)]) == 0
    assert list(server.classification.requests[0].frames) == [file_of("red"), file_of("lime"), file_of("blue")]


@pytest.mark.parametrize(
    ("arguments", "code"), [(["nowhere.mp4"], 1), ([__file__, "--at", "1,x,2"], 2), ([__file__, "--at", "-1,0,0"], 2)]
)
def test_command_refuses(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify-video", *arguments]) == code
    assert capsys.readouterr().err


def test_evaluation_scores_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "CLASSES", ("still", "fast"))
    assert main(["evaluate", "video", "--data", str(write_fight_video(tmp_path)), "--model", "fake-video", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["evaluation"], found["clips"], found["split"], found["limit"]) == ("video", 3, "val", None)
    assert (found["accuracy"], found["confusion"]) == (66.67, [[2, 0, 0], [0, 0, 0], [1, 0, 0]])
    assert len(server.classification.requests[0].frames) == 4


@needs_decoder
def test_skew_compares_files_with_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "video-skew", "--data", str(write_fight_video(tmp_path)), "--model", "fake-video", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["codec"], each["width"]) for each in found["encodings"]] == [
        ("h264", 112), ("h264", 320), ("vp9", 112), ("vp9", 320), ("gif", 112), ("gif", 320),
    ]  # fmt: skip
    for each in found["encodings"]:  # the fake server gives files another class than frames
        assert each["same_class"] == 0
        assert math.isclose(each["mean_difference"], 0.6, abs_tol=1e-5)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: (folder / "val.json").unlink(), "cannot read"),
        (lambda folder: (folder / "val.tar").write_bytes(b"x" * 600), "cannot read"),
        (lambda folder: (folder / "val.tar").unlink(), "is val a split of fight_video?"),
    ],
)
def test_broken_data_set_is_named(
    damage: Callable[[Path], object], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(write_fight_video(tmp_path) / "fight_video")
    assert main(["evaluate", "video", "--data", str(tmp_path)]) == 1
    assert text in capsys.readouterr().err


def test_the_demos_clip_is_rendered_alike() -> None:
    first, later = (np.asarray(demo_clip.frame(number)).astype(int) for number in (0, 30))
    assert first.shape == (240, 320, 3)
    assert (np.asarray(demo_clip.frame(15)) == first).all(), "the figures stand"
    assert np.abs(later - first).mean() > 5
    assert Path(demo_clip.__file__).with_name("clip.mp4").stat().st_size < 200_000
