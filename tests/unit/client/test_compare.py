# SPDX-License-Identifier: Apache-2.0
"""Models side by side: groups of lengths, words from pieces, and the two commands with their pictures."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from attnserve_client import FinishReason, Hypothesis, Piece, ScoreNormalization, Timings, Translation
from attnserve_client.cli import main
from attnserve_client.evaluation import length_bins
from attnserve_client.word_alignment import Word, common_words, most_attended, shares, with_means, words_of
from tests.fakes.server import Failure, FakeServer, model_of

SOURCES = ["a dog runs", "two cats sleep on a mat", "a bird", "the man, in the red hat, sings", ""]
REFERENCES = ["RUNS DOG A", "MAT A ON SLEEP CATS TWO", "A BIRD", "SINGS HAT, RED THE IN MAN, THE", ""]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> Path:
    monkeypatch.setenv("ATTNSERVE_ADDRESS", server.address)
    folder = tmp_path / "multi30k"
    folder.mkdir()
    for language, lines in (("en", SOURCES), ("de", REFERENCES)):
        (folder / f"val.{language}.gz").write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    server.models.models = [model_of(name) for name in ("fake-en-de", "other-en-de")]
    return tmp_path


def of_length(*lengths: int) -> list[str]:
    return [" ".join(["x"] * length) for length in lengths]


def test_groups_of_lengths_are_whole_and_nearly_equal() -> None:
    bins = length_bins(of_length(5, 1, 2, 2, 9, 1, 7, 3), 3)
    assert [(each.label, sorted(each.members)) for each in bins] == [("1", [1, 5]), ("2-3", [2, 3, 7]), ("5-9", [0, 4, 6])]
    assert [each.label for each in length_bins(of_length(4, 4, 4), 5)] == ["4"]
    assert [each.label for each in length_bins(of_length(4, 4, 6), 5)] == ["4", "6"]
    assert sorted(member for each in length_bins(of_length(*range(1, 60)), 7) for member in each.members) == list(range(59))


def test_words_are_runs_of_letters_and_digits() -> None:
    text = "Er, (der 2.) heißt »Ä1«"
    assert [text[word.begin : word.end] for word in words_of(text)] == ["Er", "der", "2", "heißt", "Ä1"]
    assert words_of("a_b ...") == [Word(0, 1), Word(2, 3)]


def test_common_words_end_where_texts_part() -> None:
    assert common_words("ein Hund rennt.", "ein Hund rennen") == [Word(0, 3), Word(4, 8)]
    assert common_words("ein Hund", "ein Hundehaus") == [Word(0, 3)]
    assert common_words("ein Hund", "ein Hund") == [Word(0, 3), Word(4, 8)]
    assert common_words("kein", "ein") == []
    assert common_words("ein Hund", "ein Hund rennt", "ein Hund rennt") == [Word(0, 3), Word(4, 8)]


def translation(source: list[Piece], target: list[Piece]) -> Translation:
    best = Hypothesis("ab c", tuple(target), 0.0, ScoreNormalization.SUM, FinishReason.STOP)
    return Translation((best,), tuple(source), "m", "1", Timings(0, 0, 0, 0))


def test_a_word_attends_as_its_pieces_do() -> None:
    source = [Piece("un", 0, 2), Piece("do it", 2, 7), Piece("", 7, 7)]  # "undo it": the second piece is in both words
    target = [Piece("a", 0, 1), Piece("b", 1, 2), Piece("c", 3, 4), Piece("", 4, 4)]
    of_source, of_target = [Word(0, 4), Word(5, 7)], [Word(0, 2), Word(3, 4)]
    assert shares(of_source, source).tolist() == [[1, 0.4, 0], [0, 0.4, 0]]
    weights = np.array([[0.1, 0.0, 0.9], [0.0, 0.2, 0.8], [0.1, 0.9, 0.0], [1.0, 0.0, 0.0]], np.float32)
    assert most_attended(translation(source, target), weights, of_source, of_target).tolist() == [0, 0]
    other = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]], np.float32)
    both = np.stack([weights, other])
    assert most_attended(translation(source, target), both, of_source, of_target).shape == (2, 2)


def test_means_follow_heads_and_layers() -> None:
    weights = np.arange(2 * 3, dtype=np.float32).reshape(2, 3, 1, 1)
    assert with_means(weights)[..., 0, 0].tolist() == [[0, 1, 2, 1], [3, 4, 5, 4], [1.5, 2.5, 3.5, 2.5]]


def test_lengths(data: Path, capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    plot = data / "lengths.png"
    assert main(["evaluate", "lengths", "--data", str(data), "--split", "val", "--bins", "2", "--plot", str(plot), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["words"], result["counts"], result["beam_size"]) == (["0-2", "3-7"], [2, 3], 5)
    assert [each["model"] for each in result["models"]] == ["fake-en-de", "other-en-de"]
    for each in result["models"]:
        low, high = each["by_length"]
        assert low < high == 100 > each["bleu_lc"] > low
        assert each["variant"] == "fp32"
    assert {request.options.beam_size for request in server.translation.requests} == {5}
    with Image.open(plot) as picture:
        assert picture.width > 500
    assert main(["evaluate", "lengths", "--data", str(data), "--split", "val", "--model", "other-en-de"]) == 0
    assert [each["model"] for each in json.loads(capsys.readouterr().out)["models"]] == ["other-en-de"]
    assert main(["evaluate", "lengths", "--split", "val"]) == 1
    assert "--data" in capsys.readouterr().err


def test_alignment(data: Path, capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    plot = data / "page.png"
    arguments = ["--data", str(data), "--split", "val", "--model", "fake-en-de", "--against", "other-en-de", "--limit", "4"]
    assert main(["evaluate", "alignment", *arguments, "--plot", str(plot), "--text", "a b c", "--text", "d e"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["sentences"], result["words"]) == (3, 3 + 6 + 7), "one reference is not what the models say"
    assert np.shape(result["agreement"]) == (2, 3)
    assert np.shape(result["agreement_of_layer_means"]) == (2,)
    assert result["best"] == {"layers": [0], "heads": [0], "agreement": 1.0}, "the others of the fake look at the first word"
    assert max(result["agreement"][1]) < 1
    asked = [(request.model, request.options.prefix) for request in server.translation.requests]
    assert ("fake-en-de", REFERENCES[1]) in asked
    assert ("other-en-de", REFERENCES[1]) in asked
    with Image.open(plot) as picture:
        assert picture.height > 300


def test_alignment_skips_pairs_that_a_model_refuses(data: Path, capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    unknown = Failure(grpc.StatusCode.INVALID_ARGUMENT, "no such characters", "INVALID_ARGUMENT", "options.prefix")

    def refuse(request: object, context: object) -> None:
        if "MAT" in getattr(request, "options").prefix:  # noqa: B009 - a message of one of two types
            unknown.abort(context)

    server.translation.before = refuse
    arguments = ["--data", str(data), "--split", "val", "--model", "fake-en-de", "--against", "other-en-de", "--limit", "4"]
    assert main(["evaluate", "alignment", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["sentences"] == 2


def test_alignment_of_models_that_have_none_to_choose(data: Path, capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    def single(response: object) -> None:
        for hypothesis in getattr(response, "hypotheses"):  # noqa: B009
            del hypothesis.attention[1:]
            hypothesis.attention[0].ClearField("layer")

    server.translation.alter = single
    arguments = ["--data", str(data), "--split", "val", "--model", "fake-en-de", "--against", "other-en-de", "--limit", "1"]
    assert main(["evaluate", "alignment", *arguments]) == 1
    assert "fake-en-de has a single alignment" in capsys.readouterr().err
    server.translation.alter = lambda response: [each.ClearField("attention") for each in response.hypotheses] and None
    assert main(["evaluate", "alignment", *arguments]) == 1
    assert "has no attention to compare" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written(data: Path, capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    for file in (data / "missing" / "x.png", data / "x.tune"):
        assert main(["evaluate", "lengths", "--data", str(data), "--split", "val", "--plot", str(file)]) == 1
        assert "cannot draw into" in capsys.readouterr().err
    assert not server.translation.requests, "the error comes before any work"


def test_models_of_other_languages_are_not_compared(data: Path, capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    server.models.languages["other-en-de"] = ("de", "en")
    assert main(["evaluate", "lengths", "--data", str(data), "--split", "val"]) == 1
    assert "de to en, en to de" in capsys.readouterr().err
    assert main(["evaluate", "alignment", "--data", str(data), "--model", "fake-en-de", "--against", "other-en-de"]) == 1
    assert "of the same languages" in capsys.readouterr().err
