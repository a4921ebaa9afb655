# SPDX-License-Identifier: Apache-2.0
"""The check before a bundle is shipped: it passes a correct export of a small Transformer, and reports any other."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from attnserve.v1 import manifest_pb2
from attnserve_export import bundles, parity
from attnserve_export.bundle_writer import WEIGHTS_FILE, write_bundle
from attnserve_export.exporter import ExportError, export_graph
from attnserve_export.graphs import int8
from attnserve_export.graphs.transformer import transformer_states, transformer_variants
from attnserve_export.int8_variant import add_int8_variant
from attnserve_export.models.transformer import Transformer, TransformerConfig
from attnserve_export.parity import MAX_DIVERGENCE, check_parity
from attnserve_export.parity_runner import PlainRunner
from attnserve_export.parity_sources import TextSources
from attnserve_export.recipe import load_recipe
from attnserve_export.trained import TRAINING_FILE, Trained, trained_in_bundle, training_file
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

VOCAB_SIZE = 40
CONFIG = TransformerConfig(
    VOCAB_SIZE, d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=2, max_positions=129
)
RNG = np.random.default_rng(0)
SOURCES = [[*RNG.integers(4, VOCAB_SIZE, length).tolist(), 3] for length in (3, 9, 5, 12, 1, 7)]
GRID = [(1, 2), (2, 7), (5, 24)]


@dataclass
class Made:
    """A small model, its graphs and its description."""

    model: Transformer
    manifest: manifest_pb2.Manifest
    graphs: dict[str, onnx.ModelProto]


@pytest.fixture(scope="module")
def made() -> Made:
    torch.manual_seed(0)
    fresh = Transformer(CONFIG)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.copy_((parameter + 0.02 * torch.randn_like(parameter)).half().float())
    model = fresh.eval().requires_grad_(False)
    manifest = manifest_pb2.Manifest(
        format_version=1,
        model_id="small",
        version="1",
        vocabulary=manifest_pb2.Vocabulary(size=VOCAB_SIZE, end_id=3, begin_id=2),
        states=transformer_states(model, 128, 128),
        attention=manifest_pb2.AttentionOutput(output="attention", num_layers=2, num_heads=2),
    )
    cpu = transformer_variants(model, list(manifest.states))[0]
    chosen = [cpu.steps[0], next(step for step in cpu.steps if step.gives_attention and step.max_rows_of_request > 1)]
    cpu = replace(cpu, steps=chosen)
    manifest.variants.append(cpu.describe())
    graphs = {spec.file: export_graph(spec) for spec in (cpu.encode, *cpu.steps)}
    add_int8_variant(manifest, graphs)
    return Made(model, manifest, graphs)


def written(made: Made, folder: Path) -> manifest_pb2.Manifest:
    return write_bundle(folder, made.manifest, made.graphs, {})


def fp32_of(manifest: manifest_pb2.Manifest) -> manifest_pb2.Variant:
    return next(variant for variant in manifest.variants if variant.name == "fp32")


def test_sound_export_passes(made: Made, tmp_path: Path) -> None:
    manifest = written(made, tmp_path / "b")
    report = check_parity(tmp_path / "b", manifest, made.model, TextSources(SOURCES, VOCAB_SIZE, GRID))
    files = [step.graph.file for step in fp32_of(manifest).steps]
    assert sorted(case.graph for case in report.cases) == sorted(f"fp32/{file}" for file in files for _ in GRID)
    assert {case.source_tokens for case in report.cases} == {2, 7, 24}
    assert {case.position for case in report.cases} <= set(parity.POSITIONS)
    assert max(case.max_abs_difference for case in report.cases) <= report.tolerance == 1e-4
    assert report.num_sentences == len(SOURCES) == report.num_identical + report.num_near_ties
    (int8,) = report.approximate
    assert int8.variant == "int8"
    assert report.tolerance < int8.max_abs_difference < 1
    assert 0 < int8.divergence < int8.max_divergence == MAX_DIVERGENCE
    assert 0 <= int8.identical_share <= 1


def test_int8_is_the_first_variant_and_adds_no_weights(made: Made, tmp_path: Path) -> None:
    manifest = written(made, tmp_path / "both")
    assert [variant.name for variant in manifest.variants] == ["int8", "fp32"]
    int8, fp32 = manifest.variants
    named = [(variant.encode, *(step.graph for step in variant.steps)) for variant in (int8, fp32)]
    assert [graph.file for graph in named[0]] == [graph.file.replace(".onnx", "_int8.onnx") for graph in named[1]]
    assert [list(graph.inputs) for graph in named[0]] == [list(graph.inputs) for graph in named[1]]
    alone = {name: graph for name, graph in made.graphs.items() if "int8" not in name}
    write_bundle(tmp_path / "alone", made.manifest, alone, {})
    assert (tmp_path / "both" / WEIGHTS_FILE).read_bytes() == (tmp_path / "alone" / WEIGHTS_FILE).read_bytes()


def test_every_product_of_a_transformer_is_int8(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "MIN_WEIGHTS", 1)  # those of this model are small
    manifest, graphs = manifest_pb2.Manifest(), {name: graph for name, graph in made.graphs.items() if "int8" not in name}
    manifest.CopyFrom(made.manifest)
    del manifest.variants[0]
    add_int8_variant(manifest, graphs)
    for name, graph in graphs.items():
        weights = {each.name for each in graph.graph.initializer}
        products = [node for node in graph.graph.node if node.op_type in ("MatMul", "Gemm") and weights & set(node.input)]
        assert bool(products) is ("int8" not in name), name


def test_a_coarse_int8_variant_is_refused(made: Made, tmp_path: Path) -> None:
    """A planted fault: int8 weights of two levels. The check fails although the fp32 variant is correct."""
    graphs = copy.deepcopy(made.graphs)
    for name in [name for name in graphs if "int8" in name]:
        for each in graphs[name].graph.initializer:
            if each.name == "int8/64.0":
                each.CopyFrom(numpy_helper.from_array(np.float32(2.0), each.name))
    manifest = write_bundle(tmp_path / "b", made.manifest, graphs, {})
    with pytest.raises(ExportError, match=r"^parity: int8 diverges by .* nats a token$"):
        check_parity(tmp_path / "b", manifest, made.model, TextSources(SOURCES, VOCAB_SIZE, GRID))


def test_nan_is_refused() -> None:
    case = manifest_pb2.ParityCase(graph="fp32/step.onnx", max_abs_difference=float("nan"))
    int8 = manifest_pb2.ApproximateVariant(variant="int8", divergence=float("nan"))
    report = manifest_pb2.ParityReport(cases=[case], approximate=[int8])
    assert [problem.split()[0] for problem in parity.find_problems(report)] == ["fp32/step.onnx", "int8"]


@pytest.mark.parametrize(
    "name",
    ["embedding.weight", "encoder.0.feed_forward.inner.bias", "decoder.1.cross_attention.key_value.weight", "decoder_norm.bias"],
)
def test_one_wrong_weight_is_refused(made: Made, tmp_path: Path, name: str) -> None:
    manifest = written(made, tmp_path / "b")
    wrong = copy.deepcopy(made.model)
    dict(wrong.named_parameters())[name].flatten()[5] += 0.5
    with pytest.raises(ExportError, match=r"parity: .* differs by .* rows, position"):
        check_parity(tmp_path / "b", manifest, wrong, TextSources(SOURCES, VOCAB_SIZE, GRID))


def test_tampered_weights_are_refused(made: Made, tmp_path: Path) -> None:
    manifest = written(made, tmp_path / "b")
    data = bytearray((tmp_path / "b" / WEIGHTS_FILE).read_bytes())
    data[1::128] = bytes(value ^ 0x80 for value in data[1::128])  # the signs of some float16
    (tmp_path / "b" / WEIGHTS_FILE).write_bytes(bytes(data))
    with pytest.raises(ExportError, match="parity"):
        check_parity(tmp_path / "b", manifest, made.model, TextSources(SOURCES, VOCAB_SIZE, GRID))


def test_other_sentences_are_counted(made: Made, tmp_path: Path) -> None:
    manifest = written(made, tmp_path / "b")
    wrong = copy.deepcopy(made.model)
    wrong.decoder_norm.bias.copy_(wrong.embedding.weight[7] * 10)
    runner = PlainRunner(tmp_path / "b", manifest, fp32_of(manifest), 0)
    tally = parity.compare_answers({"fp32": runner}, wrong, TextSources(SOURCES, VOCAB_SIZE, GRID))["fp32"]
    assert tally.num_identical + tally.num_near_ties < len(SOURCES)
    assert tally.total_divergence / tally.num_tokens > MAX_DIVERGENCE


def test_failed_check_leaves_what_was_there(made: Made, tmp_path: Path) -> None:
    destination = tmp_path / "small" / "1"
    destination.mkdir(parents=True)
    (destination / "old").write_bytes(b"old")

    def complete(folder: Path, manifest: manifest_pb2.Manifest) -> None:
        assert (folder / "manifest.json").exists()
        raise ExportError("parity: planted")

    with pytest.raises(ExportError, match="planted"):
        bundles.write_checked(destination, made.manifest, made.graphs, {}, complete, lambda _: "card")
    assert [path.name for path in destination.iterdir()] == ["old"]
    assert [path.name for path in destination.parent.iterdir()] == ["1"]


def test_checked_bundle_takes_the_place_of_the_old_one(made: Made, tmp_path: Path) -> None:
    destination = tmp_path / "small" / "1"
    destination.mkdir(parents=True)
    (destination / "old").write_bytes(b"old")
    report = manifest_pb2.ParityReport(tolerance=1e-4, num_sentences=1, num_identical=1)
    bundles.write_checked(
        destination,
        made.manifest,
        made.graphs,
        {"tokenizer.model": b"pieces"},
        lambda _, full: full.parity.CopyFrom(report),
        lambda full: f"# {full.model_id}\n",
    )
    assert not (destination / "old").exists()
    assert (destination / "MODEL_CARD.md").read_text(encoding="utf-8") == "# small\n"
    assert [path.name for path in destination.parent.iterdir()] == ["1"]
    assert (destination / "tokenizer.model").read_bytes() == b"pieces"


def trained(made: Made) -> Trained:
    summary = {"epochs": 3, "updates": 10, "parameters": 5, "train_seconds": 60, "averaged_epochs": 1}
    summary |= {"val_bleu_lc_by_average": {"1": 2.5}, "last_epoch": {"train_nll": 2.0, "val_nll": 3.0}}
    return Trained(load_recipe("transformer-en-de"), dict(made.model.state_dict()), b"pieces", summary)


def test_a_bundle_is_all_that_an_export_needs(made: Made, tmp_path: Path) -> None:
    before = trained(made)
    files = {"tokenizer.model": before.tokenizer, TRAINING_FILE: training_file(before.recipe, before.summary)}
    write_bundle(tmp_path / "b", made.manifest, made.graphs, files)
    after = trained_in_bundle(tmp_path / "b")
    assert (after.recipe, after.tokenizer, after.summary) == (before.recipe, before.tokenizer, before.summary)
    assert set(before.weights) <= set(after.weights)
    assert all(torch.equal(value, after.weights[name]) for name, value in before.weights.items())
