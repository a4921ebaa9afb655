# SPDX-License-Identifier: Apache-2.0
"""Generation by both clients and from the command line: requests, answers, pictures, scores, and faulty answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnserve.v1 import generation_pb2, manifest_pb2
from attnserve_client import AttnserveError, InvalidRequest
from attnserve_client.cli import main
from attnserve_client.errors import ToolError
from attnserve_client.generation_plot import draw_attention
from tests.fakes.server import FakeServer, model_of
from tests.fakes.single_pass import KINDS, generated_pixels

GRID, IMAGES = generation_pb2.GENERATION_FORM_GRID, generation_pb2.GENERATION_FORM_IMAGES


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> None:
    """Sets the fake server as the default one, and removes the machine's own settings."""
    monkeypatch.setenv("ATTNSERVE_ADDRESS", server.address)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)


def test_request_and_answer(client: Any, server: FakeServer) -> None:
    answer = client.generate_image("dog", model="m", version="2", count=3, seed=2**64 - 1, attention_at=(3, 1), priority=-1)
    (request,) = server.generation.requests
    assert (request.class_name, request.model, request.version) == ("dog", "m", "2")
    assert (request.count, request.seed, request.form, request.priority) == (3, 2**64 - 1, IMAGES, -1)
    assert (request.attention_at.x, request.attention_at.y) == (3, 1)
    assert (answer.class_index, answer.seed, answer.count, len(answer.files), answer.columns) == (1, 2**64 - 1, 3, 3, 0)
    assert (answer.attention.cell, answer.attention.maps.shape) == ((0, 1), (3, 2, 2))
    assert answer.attention.maps[2].tolist() == [[0, 1], [0, 0]]
    assert not answer.attention.maps.flags.writeable
    assert (answer.model, answer.version, answer.timings.batch_size) == ("m", "1", 2)


def test_nothing_is_sent_that_is_not_set(client: Any, server: FakeServer) -> None:
    answer = client.generate_image("cat", count=None, seed=None)
    request = server.generation.requests[0]
    assert not request.HasField("count")
    assert not request.HasField("seed")
    assert not request.HasField("attention_at")
    assert (answer.count, answer.seed, answer.attention) == (1, 99, None)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_pixels_are_the_same_from_files_and_from_a_grid(client: Any, server: FakeServer, count: int) -> None:
    grid, files = client.generate_image("frog", count=count, seed=5, grid=True), client.generate_image("frog", count=count, seed=5)
    assert [each.form for each in server.generation.requests] == [GRID, IMAGES]
    assert (len(grid.files), grid.columns) == (1, 2)
    for answer in (grid, files):
        np.testing.assert_array_equal(answer.pixels(), [generated_pixels(5, index) for index in range(count)])


@pytest.mark.parametrize(
    ("keywords", "field"),
    [
        ({"count": -1}, "count"),
        ({"count": float("nan")}, "count"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"attention_at": (1,)}, "attention_at"),
        ({"attention_at": (-1, 2)}, "attention_at"),
        ({"attention_at": 7}, "attention_at"),
        ({"priority": "high"}, "priority"),
        ({"beam_size": 3}, "beam_size"),
    ],
)
def test_what_cannot_be_sent_names_its_field(client: Any, server: FakeServer, keywords: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.generate_image("cat", **keywords)
    assert caught.value.field == field
    assert not server.generation.requests


def test_class_that_is_no_text_names_its_field(client: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.generate_image(7)
    assert caught.value.field == "class_name"


@pytest.mark.parametrize(
    ("alter", "text"),
    [
        (lambda response: response.images.pop(), "1 files for 2 images"),
        (lambda response: setattr(response, "count", 0), "2 files for 0 images"),
        (lambda response: response.attention.maps.pop(), "not one map for each image"),
        (lambda response: setattr(response.attention, "cell", 4), "not one map for each image"),
        (lambda response: setattr(response.attention, "rows", 0), "not one map for each image"),
        (lambda response: response.attention.maps[0].weights.pop(), "3 weights"),
    ],
)
def test_an_answer_that_violates_the_protocol(client: Any, server: FakeServer, alter: Callable[[Any], Any], text: str) -> None:
    server.generation.alter = alter
    with pytest.raises(AttnserveError, match=text):
        client.generate_image("cat", count=2, attention_at=(0, 0))


@pytest.mark.parametrize(
    ("alter", "text"),
    [
        (lambda response: setattr(response, "width", 5), "its size is 4 × 4, not 5 × 4"),
        (lambda response: response.images.__setitem__(0, b"text"), "not a usable PNG file"),
    ],
)
def test_a_file_that_is_no_image_of_the_stated_size(
    client: Any, server: FakeServer, alter: Callable[[Any], Any], text: str
) -> None:
    server.generation.alter = alter
    with pytest.raises(AttnserveError, match=text):
        client.generate_image("cat").pixels()


def test_pixels_without_pillow_name_the_extra(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = client.generate_image("cat")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ToolError, match=r"attnserve\[cli\]"):
        answer.pixels()


def test_drawn_attention_marks_the_cell_and_lights_what_it_attends_to(client: Any) -> None:
    sheet = draw_attention(client.generate_image("cat", count=5, seed=200, attention_at=(0, 0)))
    assert sheet.shape == (2 * (128 + 6) + 6, 4 * (256 + 6) + 6, 3)
    image, light = sheet[6:134, 6:134], sheet[6:134, 134:262]
    assert (image[0, :64] == [255, 40, 40]).all()
    assert (image[100, 100] == generated_pixels(200, 0)[0, 0]).all()
    assert light[:32, :32, 0].min() > light[96:, 96:, 0].max()
    with pytest.raises(ValueError, match="attention_at"):
        draw_attention(client.generate_image("cat"))


def test_command_writes_its_files(tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    grid, folder, attention = tmp_path / "grid.png", tmp_path / "all", tmp_path / "attention.png"
    arguments = ["generate", "--class", "frog", "--count", "3", "--seed", "5", "--model", "m", "--priority", "2"]
    assert main([*arguments, "--out", str(grid), "--folder", str(folder), "--attention", str(attention), "--at", "1, 2"]) == 0
    assert capsys.readouterr().out == "3 images of frog, seed 5, by m\n"
    (request,) = server.generation.requests
    assert (request.count, request.seed, request.model, request.priority, request.form) == (3, 5, "m", 2, GRID)
    assert (request.attention_at.x, request.attention_at.y) == (1, 2)
    with Image.open(grid) as image:
        assert image.size == (8, 8)
    assert sorted(path.name for path in folder.iterdir()) == [f"frog-5-{index:02d}.png" for index in range(3)]
    with Image.open(folder / "frog-5-01.png") as image:
        assert (np.asarray(image) == generated_pixels(5, 1)).all()
    with Image.open(attention) as image:
        assert image.width > 3 * 256


def test_command_prints_json_without_the_files(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--class", "dog", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["class_name"], found["count"], found["seed"], found["attention"]) == ("dog", 1, 99, None)
    assert "files" not in found
    assert not server.generation.requests[0].HasField("attention_at")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--class", "dog"], "give --out, --folder, --attention or --json"),
        (["--class", "dog", "--attention", "a.png", "--at", "1;2"], "must be a column and a row"),
        (["--class", "cow", "--json"], "--class is bad (request"),
        (["--class", "dog", "--count", "-1", "--json"], "--count must be an integer from 0"),
        (["--class", "dog", "--seed", "-1", "--json"], "--seed must be an integer from 0"),
        (["--class", "dog", "--out", "/nowhere/a.png"], "cannot write /nowhere/a.png"),
        (["--class", "dog", "--out", "a.jpg"], "its name must end in .png, not 'a.jpg'"),
        (["--class", "dog", "--json", "--at", "1,1"], "it takes --attention"),
        (["--class", "dog", "--folder", "/dev/null/a"], "cannot draw the images into /dev/null/a: Not a directory"),
        (["--class", "dog", "--attention", "/nowhere/a.png"], "there is no folder /nowhere"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *arguments]) != 0
    assert text in " ".join(capsys.readouterr().err.split())


def test_seed_is_printed_also_where_no_file_can_be_written(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.png"
    file.symlink_to("/nowhere/a.png")
    assert main(["generate", "--class", "dog", "--out", str(file)]) == 1
    shown = capsys.readouterr()
    assert "seed 99" in shown.out
    assert shown.err == f"error: cannot write {file}: No such file or directory\n"


def served(server: FakeServer, *tasks: Any) -> None:
    server.models.models = [model_of(f"m{index}", task) for index, task in enumerate(tasks)]


GENERATION, CLASSIFICATION = manifest_pb2.TASK_GENERATION, manifest_pb2.TASK_CLASSIFICATION


def test_evaluation_counts_the_images_that_are_classified_as_asked(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    served(server, GENERATION, CLASSIFICATION)
    assert main(["evaluate", "generation", "--samples", "181", "--seed", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    calls = [(each.class_name, each.count) for each in server.generation.requests]
    assert calls == [(name, count) for name in KINDS for count in (50, 10)]
    seeds = [each.seed for each in server.generation.requests]
    assert len(set(seeds)) == 6
    assert {seed >> 32 for seed in seeds} == {3}
    right = dict.fromkeys(KINDS, 0)
    for request in server.generation.requests:
        for index in range(request.count):  # the fake classifier finds the class of the strongest colour
            red, green, blue = generated_pixels(request.seed, index)[0, 0].tolist()
            right[request.class_name] += KINDS[int(np.argmax((red, green, blue)))] == request.class_name
    assert found.pop("seconds") >= 0
    assert found.pop("class_as_asked") == {name: round(100 * number / 60, 2) for name, number in right.items()}
    assert found.pop("as_asked") == round(100 * sum(right.values()) / 180, 2) > 0
    assert found == {
        "evaluation": "generation", "model": "m0", "variant": "fp32", "judge": "m1", "judge_variant": "fp32", "samples": 180,
        "seed": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tasks", "arguments", "text"),
    [
        ((GENERATION,), [], "the server has no models of the task classification"),
        ((GENERATION, CLASSIFICATION, CLASSIFICATION), [], "2 models of the task classification; name one: m1, m2"),
        ((GENERATION, CLASSIFICATION), ["--judge", "m0"], "m0 is not a model of the task classification"),
        ((GENERATION, CLASSIFICATION), ["--samples", "2"], "must be at least 3"),
        ((GENERATION, CLASSIFICATION), ["--model", "gone"], "no model gone"),
    ],
)
def test_evaluation_that_is_not_possible(
    server: FakeServer, tasks: tuple[Any, ...], arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    served(server, *tasks)
    assert main(["evaluate", "generation", *arguments]) != 0
    assert text in " ".join(capsys.readouterr().err.split())


def test_judge_that_lacks_a_class_is_refused(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served(server, GENERATION, CLASSIFICATION)
    monkeypatch.setattr("tests.fakes.single_pass.KINDS", ("cat", "cow"))
    assert main(["evaluate", "generation"]) == 1
    assert "m1 has no class cow: it cannot judge m0" in capsys.readouterr().err


def test_error_of_an_image_ends_the_evaluation(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    served(server, GENERATION, CLASSIFICATION)
    server.generation.alter = lambda response: response.images.__setitem__(0, b"bad")
    assert main(["evaluate", "generation", "--samples", "3"]) == 1
    assert "image is bad (request" in capsys.readouterr().err
