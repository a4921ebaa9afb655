# SPDX-License-Identifier: Apache-2.0
"""Golden answers as export chooses them: the module's own search, stable inputs, and nothing else of a bundle is changed."""

from __future__ import annotations

import hashlib
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from google.protobuf import json_format
from typer.testing import CliRunner

from attnserve.v1 import manifest_pb2
from attnserve_client.cli.app import build_app
from attnserve_export import bundles, golden
from attnserve_export.bundle_writer import read_manifest
from attnserve_export.bundles import renew_golden_answers, stored_model
from attnserve_export.exporter import ExportError
from attnserve_export.golden_sources import SENTENCES, made_up_images
from attnserve_export.parity_sources import TextSources
from attnserve_export.trained import trained_in_bundle
from tests.driving import ALL_BUNDLES, DEFAULT_BUNDLE, STEP_BUNDLES
from tests.reference.beam_search import beam_search
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

SMALL = ALL_BUNDLES["seq2seq-en-de"]


def module_of(folder: Path) -> Any:
    trained = trained_in_bundle(folder)
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=trained.tokenizer)
    return stored_model(trained.recipe, trained.weights, tokenizer.get_piece_size())


def answers_in(folder: Path) -> manifest_pb2.GoldenAnswers:
    return json_format.Parse((folder / read_manifest(folder).golden_file).read_text(), manifest_pb2.GoldenAnswers())


def as_source(manifest: manifest_pb2.Manifest, asked: manifest_pb2.GoldenInput) -> np.ndarray:
    shape = (1, manifest.image.height, manifest.image.width, 3)
    return (
        np.frombuffer(bytearray(zlib.decompress(asked.image)), np.uint8).reshape(shape) if asked.image else np.array([asked.tokens])
    )


@pytest.mark.parametrize("model", STEP_BUNDLES)
def test_shipped_golden_answers_are_those_of_the_module(model: str) -> None:
    folder, manifest = STEP_BUNDLES[model], read_manifest(STEP_BUNDLES[model])
    found, module = answers_in(folder), module_of(folder)
    assert 3 <= len(found.inputs) <= 8
    assert {each.variant for each in found.tolerances} == {each.name for each in manifest.variants}
    assert (folder / manifest.golden_file).stat().st_size < 10_000
    for asked in found.inputs:
        assert [each.beam_size for each in asked.answers] == golden.beam_sizes(manifest)
        for each in asked.answers:
            answer = golden.search(module, as_source(manifest, asked), each.beam_size, each.max_tokens)
            assert answer.tokens == each.tokens
            assert answer.score == pytest.approx(each.score, abs=1e-4)


@pytest.mark.parametrize(("beam_size", "max_tokens"), [(1, 24), (1, 5), (4, 24), (8, 6)])
def test_search_is_that_of_the_reference(beam_size: int, max_tokens: int) -> None:
    module, num_compared = module_of(DEFAULT_BUNDLE), 0
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(DEFAULT_BUNDLE / "tokenizer.model"))
    for text in SENTENCES["en"][:5]:
        source = [*tokenizer.encode(text), 3]
        expected = beam_search(module, source, beam_size=beam_size, max_tokens=max_tokens)
        if expected.margin > 1e-4:
            found = golden.search(module, np.array([source]), beam_size, max_tokens)
            assert found.tokens == expected.hypotheses[0].tokens
            assert found.score == pytest.approx(expected.hypotheses[0].score, abs=1e-5)
            num_compared += 1
    assert num_compared >= 4


def sources_of(folder: Path, texts: tuple[str, ...]) -> TextSources:
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return TextSources([[*tokenizer.encode(text), 3] for text in texts], tokenizer.get_piece_size())


def test_answer_that_noise_changes_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "NOISE", 5.0)
    with pytest.raises(ExportError, match="0 of 6 inputs have stable answers, 4 are needed"):
        golden.golden_answers(SMALL, read_manifest(SMALL), module_of(SMALL), sources_of(SMALL, SENTENCES["en"][:6]))


def test_equal_answers_are_taken_once() -> None:
    with pytest.raises(ExportError, match="1 of 5 inputs"):
        golden.golden_answers(SMALL, read_manifest(SMALL), module_of(SMALL), sources_of(SMALL, SENTENCES["en"][2:3] * 5))


def test_variant_that_differs_too_much_leaves_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "MOST_TOLERANCE", 1e-5)
    with pytest.raises(ExportError, match="0 of 6 inputs"):
        golden.golden_answers(SMALL, read_manifest(SMALL), module_of(SMALL), sources_of(SMALL, SENTENCES["en"][:6]))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_renewing_changes_no_other_file(tmp_path: Path) -> None:
    folder = tmp_path / SMALL.parent.name / "1"
    shutil.copytree(SMALL, folder)
    (folder / "golden.json").unlink()
    result = CliRunner().invoke(build_app(), ["export", SMALL.parent.name, "--golden", "--models", str(tmp_path)])
    assert (result.exit_code, result.stdout.strip()) == (0, str(folder))
    before, after = digests(SMALL), digests(folder)
    assert {name for name in before if before[name] != after[name]} <= {"golden.json", "manifest.json"}
    assert [list(each.tokens) for each in answers_in(folder).inputs] == [list(each.tokens) for each in answers_in(SMALL).inputs]


def test_bundle_that_gets_none_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / SMALL.parent.name / "1"
    shutil.copytree(SMALL, folder)
    monkeypatch.setitem(SENTENCES, "en", ())
    with pytest.raises(ExportError, match="0 of 0 inputs"):
        renew_golden_answers(folder)
    assert digests(folder) == digests(SMALL)


def test_export_of_a_model_with_too_few_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bundles, "check_parity", lambda *_: manifest_pb2.ParityReport(num_sentences=7))
    manifest, none = read_manifest(SMALL), sources_of(SMALL, ())
    manifest.ClearField("golden_file")
    bundles.complete(SMALL, manifest, module_of(SMALL), none, none)
    assert (manifest.parity.num_sentences, manifest.golden_file) == (7, "")
    assert "warning: golden answers: 0 of 0 inputs have stable answers" in capsys.readouterr().err


def test_made_up_images_are_small_and_different() -> None:
    images = made_up_images(8, 224, 224)
    assert {image.shape for image in images} == {(224, 224, 3)}
    assert len({image.tobytes() for image in images}) == 8
    assert max(len(zlib.compress(image.tobytes(), 9)) for image in images) < 4000
