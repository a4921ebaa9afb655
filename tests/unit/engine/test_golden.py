# SPDX-License-Identifier: Apache-2.0
"""The shipped models' golden answers: every graph of a variant is asked, a wrong weight in any of them is seen, bad files are refused."""

from __future__ import annotations

import base64
import json
import shutil
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from attnserve.v1 import manifest_pb2
from attnserve_export.bundle_writer import read_manifest, write_manifest
from attnserve_server.bundle.loader import load_bundle
from attnserve_server.config import EngineConfig
from attnserve_server.engine.worker import golden
from attnserve_server.engine.worker.iterative.factory import make_engine
from attnserve_server.engine.worker.iterative.golden import golden_groups
from attnserve_server.errors import BundleError
from attnserve_server.execution.runner import IterativeRunner
from attnserve_server.execution.step import StepInputs
from attnserve_server.kinds import ITERATIVE
from tests.driving import ALL_BUNDLES, CAPTION_BUNDLE, STEP_BUNDLES

SMALL = "rnnsearch-en-de"
VARIANTS = [
    (model, variant.name)
    for model, path in STEP_BUNDLES.items()
    for variant in load_bundle(path).manifest.variants
    if variant.device == manifest_pb2.DEVICE_CPU
]


def start(folder: Path, variant: str = "auto") -> None:
    bundle, config = load_bundle(folder, variant=variant), EngineConfig()
    for _ in golden.starting(make_engine(bundle, config), ITERATIVE, bundle, config):
        pass


def problems_of(folder: Path, variant: str = "auto") -> list[str]:
    with pytest.raises(BundleError) as raised:
        start(folder, variant)
    return raised.value.problems


@pytest.mark.parametrize(("model", "variant"), VARIANTS)
def test_right_model_is_accepted_and_every_graph_was_asked(model: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_manifest(ALL_BUNDLES[model]).golden_file
    asked, choose = set(), IterativeRunner.choose

    def noted(runner: IterativeRunner, inputs: StepInputs) -> Any:
        chosen = choose(runner, inputs)
        asked.add(chosen.declared.graph.file)
        return chosen

    monkeypatch.setattr(IterativeRunner, "choose", noted)
    start(ALL_BUNDLES[model], variant)
    bundle = load_bundle(ALL_BUNDLES[model], variant=variant)
    assert asked == {step.graph.file for step in bundle.variant.steps}


def copied(path: Path, models: Path) -> Path:
    folder = models / path.parent.name / path.name
    shutil.copytree(path, folder)
    return folder


def scale_a_weight(folder: Path, name: str, factor: float) -> None:
    """Scales the largest of a graph's floating-point weights, and corrects the file's checksum."""
    model = onnx.load(folder / name)
    floats = [each for each in model.graph.initializer if each.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)]
    largest = max(floats, key=lambda each: int(np.prod(each.dims)))
    value = numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array((value * factor).astype(value.dtype), largest.name))
    onnx.save(model, folder / name)
    write_manifest(folder, read_manifest(folder))


@pytest.mark.parametrize("variant", ["int8", "fp32"])
@pytest.mark.parametrize("graph", ["encode", "step_1", "step_8"])
def test_wrong_weight_in_any_graph_is_refused(graph: str, variant: str, tmp_path: Path) -> None:
    folder = copied(ALL_BUNDLES[SMALL], tmp_path)
    scale_a_weight(folder, f"{graph}_int8.onnx" if variant == "int8" else f"{graph}.onnx", 1.5)
    problems = problems_of(folder, variant)
    assert all(problem.startswith(f"variant {variant}, golden input ") for problem in problems)
    assert "expected" in problems[0]
    assert "got" in problems[0]


def test_copy_with_the_same_weights_is_accepted(tmp_path: Path) -> None:
    folder = copied(ALL_BUNDLES[SMALL], tmp_path)
    scale_a_weight(folder, "step_1.onnx", 1.0)
    start(folder, "fp32")


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / "golden.json").read_text())
    edit(content)
    (folder / "golden.json").write_text(json.dumps(content))
    write_manifest(folder, read_manifest(folder))


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda content: content["inputs"][1]["answers"][0]["tokens"].append(7), "golden input 2, beam size 1: expected tokens ["),
        (lambda content: content["inputs"][0]["answers"][1].update(score=-9), "golden input 1, beam size 8: expected score -9.0000 within"),
        (lambda content: content["tolerances"].pop(0), "golden.json: no golden answers for variant int8"),
        (lambda content: content.update(inputs=[]), "golden.json: no golden answers for variant int8"),
        (lambda content: content.update(questions=[]), 'golden.json: Message type "attnserve.v1.GoldenAnswers" has no field'),
        (lambda content: content["inputs"][0].update(image="AAAA"), "golden.json: Error -3 while decompressing"),
        (lambda content: content["inputs"][0]["tokens"].clear(), "golden.json: input 1 has no source"),
    ],
)  # fmt: skip
def test_golden_answers_that_are_wrong_or_cannot_be_read(edit: Callable[[Any], Any], problem: str, tmp_path: Path) -> None:
    folder = copied(ALL_BUNDLES[SMALL], tmp_path)
    change(folder, edit)
    found = problems_of(folder)
    assert any(problem in each for each in found), found


def test_image_of_another_size_cannot_be_read(tmp_path: Path) -> None:
    folder = copied(CAPTION_BUNDLE, tmp_path)
    image = base64.b64encode(zlib.compress(bytes(12))).decode()
    change(folder, lambda content: content["inputs"][0].update(image=image))
    assert problems_of(folder) == ["golden.json: an image has 12 bytes of pixels, not 150528"]


@pytest.mark.parametrize("compressed", [zlib.compress(bytes(64 << 20)), zlib.compress(bytes(150528))[:-4]], ids=["bomb", "cut"])
def test_image_that_is_too_large_or_cut_is_not_decompressed_further(tmp_path: Path, compressed: bytes) -> None:
    folder = copied(CAPTION_BUNDLE, tmp_path)
    change(folder, lambda content: content["inputs"][0].update(image=base64.b64encode(compressed).decode()))
    bundle = load_bundle(folder)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=r"an image has (at least 150529|150528) bytes of pixels, not 150528"):
            golden_groups(bundle)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_golden_file_that_is_missing_or_not_listed(tmp_path: Path) -> None:
    folder = copied(ALL_BUNDLES[SMALL], tmp_path)
    (folder / "golden.json").unlink()
    assert problems_of(folder) == ["golden.json is missing"]
    write_manifest(folder, read_manifest(folder))
    assert problems_of(folder) == ["golden.json is named but not listed"]


def test_bundle_of_before_golden_answers_is_served(tmp_path: Path) -> None:
    folder = copied(ALL_BUNDLES[SMALL], tmp_path)
    (folder / "golden.json").unlink()
    manifest = read_manifest(folder)
    manifest.ClearField("golden_file")
    write_manifest(folder, manifest)
    start(folder)
