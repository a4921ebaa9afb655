# SPDX-License-Identifier: Apache-2.0
"""The check before a bundle is shipped: it passes a sound export of a small Transformer, and is loud about any other."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from attnserve.v1 import manifest_pb2
from attnserve_export import bundles, parity
from attnserve_export.bundle_writer import WEIGHTS_FILE, write_bundle
from attnserve_export.exporter import ExportError, export_graph
from attnserve_export.graphs.transformer import transformer_states, transformer_variants
from attnserve_export.models.transformer import Transformer, TransformerConfig
from attnserve_export.parity import check_parity

VOCAB_SIZE = 40
CONFIG = TransformerConfig(
    VOCAB_SIZE, d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=2, max_positions=129
)
RNG = np.random.default_rng(0)
SOURCES = [[*RNG.integers(4, VOCAB_SIZE, length).tolist(), 3] for length in (3, 9, 5, 12, 1, 7)]


@dataclass
class Made:
    """A small model, its graphs and its description."""

    model: Transformer
    manifest: manifest_pb2.Manifest
    graphs: dict[str, onnx.ModelProto]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "GRID", [(1, 2), (2, 7), (5, 24)])


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
    return Made(model, manifest, {spec.file: export_graph(spec) for spec in (cpu.encode, *cpu.steps)})


def written(made: Made, folder: Path) -> manifest_pb2.Manifest:
    return write_bundle(folder, made.manifest, made.graphs, {})


def test_sound_export_passes(made: Made, tmp_path: Path) -> None:
    manifest = written(made, tmp_path / "b")
    report = check_parity(tmp_path / "b", manifest, made.model, SOURCES)
    assert {case.graph for case in report.cases} == {f"fp32/{step.graph.file}" for step in manifest.variants[0].steps}
    assert {(case.source_tokens, case.position) for case in report.cases} >= {(2, 0), (24, 30)}
    assert max(case.max_abs_difference for case in report.cases) <= report.tolerance == 1e-4
    assert report.num_sentences == len(SOURCES) == report.num_identical + report.num_near_ties


@pytest.mark.parametrize(
    "name",
    ["embedding.weight", "encoder.0.feed_forward.inner.bias", "decoder.1.cross_attention.key_value.weight", "decoder_norm.bias"],
)
def test_one_wrong_weight_is_refused(made: Made, tmp_path: Path, name: str) -> None:
    manifest = written(made, tmp_path / "b")
    wrong = copy.deepcopy(made.model)
    dict(wrong.named_parameters())[name].flatten()[5] += 0.5
    with pytest.raises(ExportError, match=r"parity: .* differs by .* rows, position"):
        check_parity(tmp_path / "b", manifest, wrong, SOURCES)


def test_tampered_weights_are_refused(made: Made, tmp_path: Path) -> None:
    manifest = written(made, tmp_path / "b")
    data = bytearray((tmp_path / "b" / WEIGHTS_FILE).read_bytes())
    data[1::128] = bytes(value ^ 0x80 for value in data[1::128])  # the signs of some float16
    (tmp_path / "b" / WEIGHTS_FILE).write_bytes(bytes(data))
    with pytest.raises(ExportError, match="parity"):
        check_parity(tmp_path / "b", manifest, made.model, SOURCES)


def test_other_sentences_are_counted(made: Made, tmp_path: Path) -> None:
    manifest = written(made, tmp_path / "b")
    wrong = copy.deepcopy(made.model)
    wrong.decoder_norm.bias.copy_(wrong.embedding.weight[7] * 10)
    identical, near = parity.decode_sentences(tmp_path / "b", manifest, wrong, SOURCES)
    assert identical + near < len(SOURCES)


def test_failed_check_leaves_what_was_there(made: Made, tmp_path: Path) -> None:
    destination = tmp_path / "small" / "1"
    destination.mkdir(parents=True)
    (destination / "old").write_bytes(b"old")

    def check(folder: Path, manifest: manifest_pb2.Manifest) -> manifest_pb2.ParityReport:
        assert (folder / "manifest.json").exists()
        raise ExportError("parity: planted")

    with pytest.raises(ExportError, match="planted"):
        bundles._write_checked(destination, made.manifest, made.graphs, b"pieces", check, lambda _: "card")
    assert [path.name for path in destination.iterdir()] == ["old"]
    assert [path.name for path in destination.parent.iterdir()] == ["1"]


def test_checked_bundle_takes_the_place_of_the_old_one(made: Made, tmp_path: Path) -> None:
    destination = tmp_path / "small" / "1"
    destination.mkdir(parents=True)
    (destination / "old").write_bytes(b"old")
    report = manifest_pb2.ParityReport(tolerance=1e-4, num_sentences=1, num_identical=1)
    bundles._write_checked(
        destination, made.manifest, made.graphs, b"pieces", lambda *_: report, lambda full: f"# {full.model_id}\n"
    )
    assert not (destination / "old").exists()
    assert (destination / "MODEL_CARD.md").read_text(encoding="utf-8") == "# small\n"
    assert [path.name for path in destination.parent.iterdir()] == ["1"]
