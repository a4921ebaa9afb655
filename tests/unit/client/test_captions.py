# SPDX-License-Identifier: Apache-2.0
"""Captions on the client's side: both clients, the maps of words, the picture of the maps, scores, and the command line."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnserve.v1 import manifest_pb2
from attnserve_client import AttnserveError, Caption, CaptionDelta, InvalidRequest
from attnserve_client.caption_plot import draw_stories, save_stories
from attnserve_client.cli import main
from attnserve_client.evaluation import caption_words, score_captions
from tests.fakes.server import FakeServer, model_of
from tests.unit.client.pictures import file_of


def test_caption(client: Any, server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(file_of())
    answers = [
        client.caption(image, model="m", beam_size=5, num_hypotheses=2, priority=1) for image in (file_of(), path, str(path))
    ]
    assert {answer.text for answer in answers} == {f"a picture of {len(file_of())} bytes"}
    assert [each.text for each in answers[0].hypotheses][1].endswith("bytes indeed")
    assert (answers[0].model, answers[0].grid.rows, answers[0].grid.columns) == ("m", 2, 3)
    for request in server.captions.requests:
        assert request.image == file_of()
        assert (request.options.beam_size, request.options.num_hypotheses, request.priority) == (5, 2, 1)


def test_a_file_that_is_not_there(client: Any) -> None:
    with pytest.raises(FileNotFoundError):
        client.caption("nowhere.png")


def test_errors_name_the_field(client: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.caption(b"bad")
    assert caught.value.field == "image"
    with pytest.raises(InvalidRequest) as caught:
        client.caption(b"x", split_sentences=True)
    assert caught.value.field == "split_sentences"


def test_stream(client: Any) -> None:
    *deltas, whole = list(client.caption_stream(file_of()))
    assert all(isinstance(each, CaptionDelta) for each in deltas)
    assert isinstance(whole, Caption)
    assert "".join(each.text for each in deltas) == whole.text


def test_many(client: Any) -> None:
    answers = list(client.caption_many((b"x" * count if count != 3 else b"bad" for count in range(1, 9)), max_in_flight=2))
    assert [each.text for each in answers if isinstance(each, Caption)] == [
        f"a picture of {count} bytes" for count in range(1, 9) if count != 3
    ]
    assert isinstance(answers[2], AttnserveError)


def test_file_that_cannot_be_read_is_an_error_in_its_place(client: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    images = [tmp_path / "a.png", tmp_path / "gone.png", str(tmp_path), b"xx"]
    answers = list(client.caption_many(images))
    assert [each.text if isinstance(each, Caption) else each.field for each in answers] == [
        "a picture of 1 bytes", "image", "image", "a picture of 2 bytes",
    ]  # fmt: skip
    assert "gone.png: No such file" in str(answers[1])


def test_words_and_their_maps(client: Any) -> None:
    caption = client.caption(file_of(), return_attention=True)
    maps = caption.word_maps()
    assert [each.word for each in maps] == caption.text.split()
    for index, each in enumerate(maps):
        assert each.weights.shape == (2, 3)
        assert each.weights.argmax() == index
    with pytest.raises(ValueError, match="return_attention"):
        client.caption(file_of()).word_maps()


def test_pieces_of_one_word_share_its_map(client: Any, server: FakeServer) -> None:
    def split(response: Any) -> None:
        del response.hypotheses[0].pieces[:]
        response.hypotheses[0].text = "snowy hill"
        for text, begin, end in (("snow", 0, 4), ("y", 4, 5), ("hill", 6, 10), ("", 10, 10)):
            response.hypotheses[0].pieces.add(text=text, begin=begin, end=end)

    server.captions.alter = split
    first, second = client.caption(file_of(), return_attention=True).word_maps()
    assert (first.word, second.word) == ("snowy", "hill")
    assert first.weights.flatten()[:3] == pytest.approx([0.505, 0.505, 0.01])


def test_an_attention_that_fits_no_grid_is_refused(client: Any, server: FakeServer) -> None:
    def shrink(response: Any) -> None:
        response.grid.rows = 1

    server.captions.alter = shrink
    with pytest.raises(AttnserveError, match="an attention over 6 cells for a grid of 1 × 3"):
        client.caption(file_of(), return_attention=True)


def test_a_story_is_lit_where_the_model_looked(client: Any, tmp_path: Path) -> None:
    caption = client.caption(file_of("white", (600, 400)), return_attention=True)
    size = save_stories(tmp_path / "story.png", [(caption, file_of("white", (600, 400)))])
    with Image.open(tmp_path / "story.png") as picture:
        assert np.abs(np.subtract(picture.size, size)).max() <= 1
    figure = draw_stories([(caption, file_of("white", (600, 400)))] * 2)
    assert len(figure.axes) == 2 * (1 + len(caption.word_maps()))
    lit = np.asarray(figure.axes[2].images[0].get_array())  # second word: its attention is on the second of two rows of three
    assert lit[:60, 130:190].mean() > 2 * lit[170:].mean()
    assert figure.axes[0].images[0].get_array().min() == 255


def test_words() -> None:
    assert caption_words("A boy 's T-shirt , and 2 dogs !") == "a boy's t-shirt and 2 dogs"


def test_scores() -> None:
    references = [["A dog runs in the snow .", "The dog runs"], ["Two men sit on a bench", "Men on a bench", "A bench"]]
    perfect = score_captions(["a dog runs in the snow", "two men sit on a bench"], references)
    assert (perfect.bleu_4, perfect.bleu_1) == pytest.approx((100, 100))
    assert score_captions(["A dog, runs in the snow!", "Two men sit on a bench."], references).bleu_4 == pytest.approx(100)
    worse = score_captions(["a dog runs in the grass", "two men sit on a bench"], references)
    assert worse.bleu_4 < worse.bleu_1 < 100


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    folder = tmp_path / "flickr8k"
    folder.mkdir()
    with tarfile.open(folder / "dev.tar", "w") as tar:
        for name, size in (("a.jpg", 5), ("b.jpg", 70)):
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(b"x" * size))
    captions = {"dev": {"a.jpg": ["A picture of 5 bytes .", "5 bytes"], "b.jpg": ["A large picture of 70 bytes ."]}}
    (folder / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    return tmp_path


def test_evaluation(server: FakeServer, flickr: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.models.models = [model_of("fake-captions", manifest_pb2.TASK_CAPTION)]
    arguments = ["evaluate", "caption", "--data", str(flickr), "--address", server.address, "--beam-size", "3", "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["evaluation"], result["model"], result["variant"], result["split"]) == (
        "caption",
        "fake-captions",
        "fp32",
        "dev",
    )
    assert (result["beam_size"], result["length_penalty"], result["photos"], result["tokens"]) == (3, None, 2, 12)
    assert 50 < result["bleu_4"] < 100
    assert main([*arguments, "--limit", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["bleu_4"] == pytest.approx(100)


def test_what_evaluation_needs(server: FakeServer, flickr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, problem in (
        ([], "--data or ATTNSERVE_DATA"),
        (["--data", str(tmp_path / "nowhere")], "no folder"),
        (["--data", str(flickr), "--split", "test"], "is test a split of flickr8k?"),
    ):
        assert main(["evaluate", "caption", "--address", server.address, *arguments]) == 1
        assert problem in " ".join(capsys.readouterr().err.split())


def test_command(server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in (("b.JPG", b"xx"), ("a.png", b"x"), ("bad.webp", b"bad"), ("notes.txt", b"no")):
        (folder / name).write_bytes(data)
    common = ["--address", server.address]
    assert main(["caption", str(folder / "a.png"), *common]) == 0
    assert capsys.readouterr().out == "a picture of 1 bytes\n"
    assert main(["caption", str(folder / "a.png"), *common, "--num-hypotheses", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "2\t-1.5000\ta picture of 1 bytes indeed"
    assert main(["caption", str(folder), *common]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [f"{folder / name}\ta picture of {size} bytes" for name, size in (("a.png", 1), ("b.JPG", 2))]
    assert "bad.webp" in shown.err
    photos = [str(folder / name) for name in ("a.png", "b.JPG")]
    assert main(["caption", *photos, str(folder / "bad.webp"), photos[0], *common, "--stream"]) == 1
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 3
    assert "1 of 4 images could not be described" in shown.err
    assert main(["caption", str(folder / "bad.webp"), *common]) == 1
    assert "image is bad" in capsys.readouterr().err
    assert main(["caption", str(folder / "a.png"), *common, "--stream", "--json"]) == 0
    assert "result" in json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["caption", str(folder / "a.png"), *common, "--stream", "--attention", "x.png"]) == 2
