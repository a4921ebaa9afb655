# SPDX-License-Identifier: Apache-2.0
"""Figures that were measured through a server are written into the bundle's manifest, card and training record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attnserve.v1 import manifest_pb2
from attnserve_export.bundle_writer import read_manifest, write_bundle, write_manifest
from attnserve_export.exporter import ExportError
from attnserve_export.model_card import model_card
from attnserve_export.recipe import load_recipe
from attnserve_export.recording import choose_alignment
from attnserve_export.recording import record as record_bytes
from attnserve_export.trained import TRAINING_FILE, read_training, training_file

SUMMARY = {
    "epochs": 3, "updates": 10, "parameters": 5, "train_seconds": 60, "averaged_epochs": 1,
    "val_bleu_lc_by_average": {"1": 2.5}, "last_epoch": {"train_nll": 2.0, "val_nll": 3.0},
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "small" / "1"
    manifest = manifest_pb2.Manifest(
        model_id="small",
        version="1",
        attention=manifest_pb2.AttentionOutput(output="attention", num_layers=2, num_heads=3),
        variants=[manifest_pb2.Variant(name=name, device=manifest_pb2.DEVICE_CPU) for name in ("int8", "fp32")],
    )
    files = {TRAINING_FILE: training_file(load_recipe("transformer-en-de"), SUMMARY)}
    write_manifest(folder, write_bundle(folder, manifest, {}, files))
    return folder


def record(bundle: Path, evaluation: dict[str, Any]) -> None:
    assert record_bytes(bundle, json.dumps(evaluation).encode()) == bundle


def card(bundle: Path) -> str:
    return (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")


def translation(variant: str, bleu_lc: float, beam_size: int | None = 5, **changes: Any) -> dict[str, Any]:
    scores = {"bleu": bleu_lc - 1, "bleu_lc": bleu_lc, "chrf": 60.0, "signature": "s", "seconds": 1.0, "tokens": 9, "sentences": 2}
    common = {"model": "small", "variant": variant, "split": "val", "limit": None, "beam_size": beam_size, "length_penalty": None}
    return {"evaluation": "translation", **scores, **common, **changes}


def lengths(variant: str, *scores: float) -> dict[str, Any]:
    mine = {"model": "small", "variant": variant, "bleu_lc": 30.0, "by_length": list(scores)}
    other = {"model": "other", "variant": "fp32", "bleu_lc": 1.0, "by_length": [1.0, 2.0]}
    common = {"evaluation": "lengths", "split": "val", "limit": None, "beam_size": 5, "bins": 2, "sentences": 7}
    return {**common, "words": ["3-5", "6"], "counts": [4, 3], "models": [other, mine]}


def alignment(layers: list[int], heads: list[int], **changes: Any) -> dict[str, Any]:
    return {
        "evaluation": "alignment", "split": "val", "limit": None, "model": "small", "variant": "int8", "against": "other", "against_variant": "int8", "sentences": 9,
        "words": 1234, "agreement": [[0.1, 0.2, 0.3], [0.4, 0.512, 0.6]], "agreement_of_layer_means": [0.25, 0.55],
        "agreement_of_mean": 0.45, "best": {"layers": layers, "heads": heads, "agreement": 0.6}, **changes,
    }  # fmt: skip


def test_quality_is_recorded_by_variant(bundle: Path) -> None:
    for variant, bleu_lc, beam_size in [("fp32", 30.0, 5), ("int8", 20.0, None), ("int8", 29.75, 5), ("fp32", 30.031, 5)]:
        record(bundle, translation(variant, bleu_lc, beam_size))
    figures = [(q.variant, q.command[-1], q.value) for q in read_manifest(bundle).quality if q.metric == "bleu_lc"]
    assert figures == [("int8", "1", 20.0), ("int8", "5", 29.75), ("fp32", "5", 30.03)]
    command = "attnserve evaluate translation --data DIR --model small --split val --beam-size 5"
    assert f"| int8 | multi30k val | 28.75 | 29.75 | 60.00 | `{command}` |" in card(bundle)


def test_too_great_a_loss_is_not_recorded(bundle: Path) -> None:
    record(bundle, translation("fp32", 30.0))
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(ExportError, match=r"int8 loses 0\.31 bleu_lc on multi30k val"):
        record(bundle, translation("int8", 29.69))
    with pytest.raises(ExportError, match="--data"):
        record(bundle, translation("int8", 30.0, split=None))
    with pytest.raises(ExportError, match="of other, not of small"):
        record(bundle, translation("int8", 30.0, model="other"))
    assert (bundle / "manifest.json").read_bytes() == before


def test_lengths(bundle: Path) -> None:
    record(bundle, translation("fp32", 30.0))
    for scores in ([9.0, 9.0], [35.5, 20.25]):  # the second replaces the first
        record(bundle, lengths("fp32", *scores))
    record(bundle, lengths("int8", 35.0, 1.0))  # far below fp32, but on a part of the split: not a loss yet
    parts = [(q.variant, q.part, q.value) for q in read_manifest(bundle).quality if q.part]
    assert parts == [
        ("int8", "sources of 3-5 words", 35.0), ("int8", "sources of 6 words", 1.0),
        ("fp32", "sources of 3-5 words", 35.5), ("fp32", "sources of 6 words", 20.25),
    ]  # fmt: skip
    command = "attnserve evaluate lengths --data DIR --split val --beam-size 5 --bins 2"
    assert "| variant | data | 3-5 | 6 | command |" in card(bundle)
    assert f"| fp32 | multi30k val | 35.5 | 20.2 | `{command}` |" in card(bundle)
    assert "bleu-by-length.png" not in card(bundle)
    (bundle.parent.parent / "bleu-by-length.png").write_bytes(b"")
    record(bundle, lengths("fp32", 35.5, 20.25))
    assert "](../../bleu-by-length.png)" in card(bundle)
    with pytest.raises(ExportError, match="not of small"):
        record(bundle, {**lengths("fp32", 1.0, 2.0), "models": []})


@pytest.mark.parametrize(("layers", "heads", "words"), [([1], [2], "layer 1, head 2"), ([1], [], "layer 1")])
def test_alignment_is_chosen(bundle: Path, layers: list[int], heads: list[int], words: str) -> None:
    record(bundle, alignment([0], [0]))
    record(bundle, alignment(layers, heads))
    attention = read_manifest(bundle).attention
    assert (list(attention.mean_layers), list(attention.mean_heads)) == (layers, heads)
    assert f"The highest, {words}, is what" in card(bundle)
    assert "| 1 | 40.0% | 51.2% | 60.0% | 55.0% |" in card(bundle)
    assert "1,234 target words of 9 references (val): `attnserve evaluate alignment --data DIR --model small" in card(bundle)
    exported_anew = manifest_pb2.Manifest(attention=manifest_pb2.AttentionOutput(output="attention"))
    choose_alignment(exported_anew, read_training(bundle)[1])
    assert list(exported_anew.attention.mean_layers) == layers


def test_card_omits_what_is_not_measured(bundle: Path) -> None:
    record(bundle, alignment([1], []))
    assert "Not measured yet." in card(bundle)
    assert "Figure 2" not in card(bundle)
    record(bundle, translation("fp32", 30.0))
    assert "Not measured yet." not in card(bundle)
    summary = json.loads((bundle / TRAINING_FILE).read_text(encoding="utf-8"))["summary"]
    assert (summary["updates"], summary["alignment"]["words"]) == (10, 1234)
    with pytest.raises(ExportError, match="of other, not of small"):
        record(bundle, alignment([1], [], model="other"))


BAD = {
    "of a part of the data": (translation("int8", 1.0, limit=5), "whole split"),
    "of files": (translation("int8", 1.0, split=None), "--data"),
    "of another decoding": (translation("int8", 1.0, coverage_penalty=0.2), "coverage_penalty"),
    "of another length penalty": (translation("int8", 1.0, length_penalty=0.5), "length penalty"),
    "of another variant": (translation("fp8", 1.0), "no variant fp8"),
    "of another kind": ({"evaluation": "cooking"}, "not an evaluation"),
    "of no kind": ({"bleu": 1.0}, "not an evaluation"),
    "of another size": (alignment([0], [0], agreement=[[0.1, 0.2]]), "2 layers of 3 heads"),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_is_not_recorded(bundle: Path, fault: str) -> None:
    before = (bundle / "manifest.json").read_bytes()
    evaluation, problem = BAD[fault]
    with pytest.raises(ExportError, match=problem):
        record(bundle, evaluation)
    assert (bundle / "manifest.json").read_bytes() == before


def test_what_is_no_json_is_not_recorded(bundle: Path) -> None:
    with pytest.raises(ExportError, match="not an evaluation"):
        record_bytes(bundle, b"{")


def test_card_says_what_is_special_about_the_last_epochs() -> None:
    manifest = manifest_pb2.Manifest(model_id="small")
    plain, special = (model_card(manifest, load_recipe(name), SUMMARY) for name in ("transformer-en-de", "rnnsearch-en-de"))
    assert "fall linearly" not in plain
    assert "--taught" not in plain
    assert "`attnserve train small --data DIR --taught FILE` (seed 1)" in special
    assert "From epoch 9 on, learning rate and dropout fall linearly to 0" in special
    assert "From epoch 17 on, 75% of the targets are transformer-en-de's translations" in special
