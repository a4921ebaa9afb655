# SPDX-License-Identifier: Apache-2.0
"""Golden answers of single-pass models: right ones are accepted, wrong weights and bad files are refused."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import json_format
from onnx import numpy_helper

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import load_bundle
from attnserve_server.config import BatchConfig, EngineConfig
from attnserve_server.engine.worker import golden
from attnserve_server.engine.worker.single_pass.factory import make_engine
from attnserve_server.errors import BundleError
from attnserve_server.execution.pass_runner import PassRunner
from attnserve_server.kinds import SINGLE_PASS
from tests.fakes.passes import ATTENTION, MODEL_ID, PLAIN, golden_tensor, inputs_of, pass_manifest, seal, write_bundle

TOLERANCES = {"classes": (0.0, 0.02), "confidence": (1.0, 0.02), "unary": (1e-5, 0.0), "pairwise": (1e-5, 0.0)}
"""Largest difference, and the share of elements that may differ by more."""


def right(models: Path, asked: tuple[tuple[str, ...], ...] = (("classes", "confidence"), ("unary", "pairwise"))) -> Path:
    """A bundle whose golden answers are those of its graphs: one input for each group of outputs."""
    folder = write_bundle(models)
    sessions = [onnxruntime.InferenceSession(folder / name) for name in (PLAIN, ATTENTION)]
    passes = []
    for seed, names in enumerate(asked):
        inputs = inputs_of(seed)
        session = sessions["unary" in names]
        feeds = {each.name: inputs[each.name][None] for each in session.get_inputs()}
        outputs = dict(zip(names, (value[0] for value in session.run(list(names), feeds)), strict=True))
        passes.append(
            manifest_pb2.GoldenPass(
                inputs=[golden_tensor(*each) for each in inputs.items()],
                outputs=[golden_tensor(*each) for each in outputs.items()],
            )
        )
    tolerances = [
        manifest_pb2.GoldenOutputTolerance(variant="fp32", output=name, difference=difference, share=share)
        for name, (difference, share) in TOLERANCES.items()
    ]
    write(folder, manifest_pb2.GoldenPasses(passes=passes, tolerances=tolerances))
    return folder


def write(folder: Path, answers: manifest_pb2.GoldenPasses) -> None:
    (folder / "golden.json").write_text(json_format.MessageToJson(answers), encoding="utf-8")
    seal(folder, pass_manifest() | {"golden_file": "golden.json"})


def changed(folder: Path, change: Callable[[manifest_pb2.GoldenPasses], object]) -> None:
    answers = json_format.Parse((folder / "golden.json").read_text(), manifest_pb2.GoldenPasses())
    change(answers)
    write(folder, answers)


def start(folder: Path, window_s: float = 0.0) -> None:
    bundle, config = load_bundle(folder), EngineConfig(batches={MODEL_ID: BatchConfig(window_seconds=window_s)})
    for _ in golden.starting(make_engine(bundle, config), SINGLE_PASS, bundle, config):
        pass


def problems_of(folder: Path) -> list[str]:
    with pytest.raises(BundleError) as raised:
        start(folder)
    return raised.value.problems


def test_right_model_is_accepted_and_every_graph_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, run = [], PassRunner.run

    def noted(runner: PassRunner, key: Any, payloads: Any) -> Any:
        asked.append((runner.bundle.variant.passes[key.graph].graph.file, len(payloads)))
        return run(runner, key, payloads)

    monkeypatch.setattr(PassRunner, "run", noted)
    start(right(tmp_path / "a"))
    assert asked == [(PLAIN, 1), (ATTENTION, 1), (ATTENTION, 1)], "each input, and the first one with attention"
    asked.clear()
    start(right(tmp_path / "b", (("classes", "unary"), ("unary",))))
    assert asked == [(ATTENTION, 2), (PLAIN, 1)], "in one batch, and the first one without attention"
    asked.clear()
    start(right(tmp_path / "c", (("unary",),)), window_s=0.02)
    assert asked == [(ATTENTION, 1)], "nothing is left to compare without attention"


@pytest.mark.parametrize(("name", "problems"), [(PLAIN, "input 1: output classes"), (ATTENTION, "input 2: output unary")])
def test_wrong_weight_of_either_graph_is_seen(tmp_path: Path, name: str, problems: str) -> None:
    folder = right(tmp_path)
    model = onnx.load(folder / name)
    (kernel,) = (each for each in model.graph.initializer if each.name == "kernel")
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * np.float32(-1), "kernel"))
    onnx.save(model, folder / name)
    seal(folder, pass_manifest() | {"golden_file": "golden.json"})
    found = problems_of(folder)
    assert found[0].startswith(f"variant fp32, golden {problems}: ")
    assert "of the elements differ by more than" in found[0]


@pytest.mark.parametrize(("num_wrong", "is_refused"), [(1, False), (4, True)])
def test_share_of_the_elements_may_differ(tmp_path: Path, num_wrong: int, is_refused: bool) -> None:
    folder = right(tmp_path)

    def change(answers: manifest_pb2.GoldenPasses) -> None:
        (classes,) = (each for each in answers.passes[0].outputs if each.name == "classes")
        values = np.frombuffer(zlib.decompress(classes.data), np.uint8).copy()
        values[:num_wrong] ^= 1
        classes.data = zlib.compress(values.tobytes())

    changed(folder, change)
    if is_refused:
        text = "output classes: 3.1250% of the elements differ by more than 0, 2.0000% may"
        problems = [f"variant fp32, golden input 1{how}: {text}" for how in ("", ", with attention")]
        assert problems_of(folder) == problems
    else:
        start(folder)


def set_nan(answers: manifest_pb2.GoldenPasses) -> None:
    answers.passes[1].outputs[0].CopyFrom(golden_tensor("unary", np.full(8, np.nan, np.float32)))


def other_shape(answers: manifest_pb2.GoldenPasses) -> None:
    answers.passes[1].outputs[0].CopyFrom(golden_tensor("unary", np.zeros(9, np.float32)))


BAD: dict[str, tuple[Callable[[manifest_pb2.GoldenPasses], object], str]] = {
    "nothing": (lambda answers: answers.ClearField("passes"), "golden.json: no golden answers for variant fp32"),
    "no tolerance": (lambda answers: answers.tolerances.pop(), "golden.json: no tolerance of pairwise for variant fp32"),
    "of another variant": (
        lambda answers: [setattr(each, "variant", "int8") for each in answers.tolerances],
        "golden.json: no tolerance of classes, confidence, pairwise, unary for variant fp32",
    ),
    "no outputs": (lambda answers: answers.passes[1].ClearField("outputs"), "golden.json: input 2 has no expected outputs"),
    "unknown input": (
        lambda answers: setattr(answers.passes[0].inputs[0], "name", "sound"),
        "golden.json: input 1: no graph has the tensor 'sound'",
    ),
    "unknown output": (
        lambda answers: setattr(answers.passes[0].outputs[0], "name", "sound"),
        "golden.json: input 1: no graph has the tensor 'sound'",
    ),
    "no zlib": (lambda answers: setattr(answers.passes[0].inputs[0], "data", b"abc"), "golden.json: Error -3"),
    "cut": (
        lambda answers: setattr(answers.passes[0].inputs[1], "data", answers.passes[0].inputs[1].data[:-1]),
        "golden.json: input 1, size: 16 bytes, not 16",
    ),
    "too short": (
        lambda answers: setattr(answers.passes[0].inputs[1], "data", zlib.compress(b"a")),
        "golden.json: input 1, size: 1 bytes, not 16",
    ),
    "too large": (
        lambda answers: answers.passes[0].inputs[0].shape.append(1 << 20),
        "golden.json: input 1, image: 402653184 bytes are more than 67108864",
    ),
    "not a number": (set_nan, "variant fp32, golden input 2: output unary: 100.0000% of the elements differ"),
    "other shape": (other_shape, "variant fp32, golden input 2: output unary has the shape (8,), expected (9,)"),
    "missing input": (
        lambda answers: answers.passes[0].inputs.pop(0),
        "variant fp32, golden input 1: no answer (EXECUTION_FAILED: the model could not be run)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_bad_file_is_refused(tmp_path: Path, fault: str) -> None:
    folder = right(tmp_path)
    start(folder)
    change, problem = BAD[fault]
    changed(folder, change)
    assert problems_of(folder)[0].startswith(problem)


def test_bomb_is_not_decompressed(tmp_path: Path) -> None:
    folder = right(tmp_path)
    bomb = zlib.compress(bytes(1 << 26))
    changed(folder, lambda answers: setattr(answers.passes[0].inputs[1], "data", bomb))
    tracemalloc.start()
    try:
        assert problems_of(folder) == ["golden.json: input 1, size: at least 17 bytes, not 16"]
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()
