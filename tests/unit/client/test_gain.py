# SPDX-License-Identifier: Apache-2.0
"""The difference of two models in BLEU: the scores are the corpus scores, and the interval is that of paired answers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from sacrebleu.metrics.bleu import BLEU

from attnserve.v1 import manifest_pb2
from attnserve_client.cli import main
from attnserve_client.evaluation import bleu_gain, caption_parts, score_captions, translation_parts
from tests.fakes.server import FakeServer, model_of

REFERENCES = [f"Ein Hund, Nummer {number}, läuft über die {number}. Wiese im Park." for number in range(40)]
GOOD = [text if number % 4 else "Ein Hund läuft." for number, text in enumerate(REFERENCES)]
BAD = [text if number % 2 else "Eine Katze schläft nicht." for number, text in enumerate(REFERENCES)]


def test_scores_are_corpus_scores() -> None:
    found = bleu_gain(*(translation_parts(texts, [[each] for each in REFERENCES]) for texts in (GOOD, BAD)))
    good, bad = (BLEU(lowercase=True, tokenize="13a").corpus_score(texts, [REFERENCES]).score for texts in (GOOD, BAD))
    assert (found.bleu, found.against_bleu) == (pytest.approx(good, abs=0.006), pytest.approx(bad, abs=0.006))
    assert found.gain == pytest.approx(good - bad, abs=0.006)
    assert 0 < found.interval[0] < found.gain < found.interval[1]


def test_captions_have_several_references() -> None:
    captions = ["A dog's ball, red", "two men walking on a street in town"]
    references = [
        ["a dog's red ball", "a dog has a ball red as fire"],
        ["two men walking on a street", "men are walking on a street in town"],
    ]
    found = bleu_gain(caption_parts(captions, references), caption_parts(captions[::-1], references))
    assert found.bleu == pytest.approx(score_captions(captions, references).bleu_4, abs=0.006)


def test_no_gain_over_itself() -> None:
    parts = translation_parts(BAD, [[each] for each in REFERENCES])
    found = bleu_gain(parts, parts)
    assert (found.gain, found.interval) == (0, (0, 0))


def test_answers_are_paired() -> None:
    """A constant advantage on each sentence is certain, though the scores of the sentences differ much."""
    references = [[f"{text} Und noch ein Wort."] for text in REFERENCES]
    better = [each[0] for each in references]
    found = bleu_gain(translation_parts(better, references), translation_parts(REFERENCES, references))
    assert found.interval[1] - found.interval[0] < 2


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> Path:
    monkeypatch.setenv("ATTNSERVE_ADDRESS", server.address)
    folder = tmp_path / "multi30k"
    folder.mkdir()
    for language, lines in (("en", ["a dog runs", "two cats"]), ("de", ["RUNS DOG A", "TWO CATS"])):
        (folder / f"val.{language}.gz").write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    server.models.models = [model_of(name) for name in ("fake-en-de", "other-en-de")]
    return tmp_path


def test_command(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--model", "fake-en-de", "--against", "other-en-de"]
    assert main(["evaluate", "gain", *models, "--data", str(data), "--split", "val", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["evaluation"], found["gain"], found["interval"], found["answers"]) == ("gain", 0, [0, 0], 2)
    assert (found["model"], found["against"], found["split"], found["beam_size"]) == ("fake-en-de", "other-en-de", "val", 5)


def test_models_of_other_tasks_are_refused(data: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.models.models[1].task = manifest_pb2.TASK_CAPTION
    models = ["--model", "fake-en-de", "--against", "other-en-de"]
    assert main(["evaluate", "gain", *models, "--data", str(data)]) == 1
    assert "must both translate, or both write captions" in capsys.readouterr().err
