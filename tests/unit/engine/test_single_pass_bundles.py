# SPDX-License-Identifier: Apache-2.0
"""Manifests of single-pass models: each fault is named; format versions and what they require."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.checks import iterative_problems, named_files
from attnserve_server.bundle.loader import load_bundle
from attnserve_server.bundle.single_pass import largest_batch, single_pass_problems
from attnserve_server.errors import BundleError
from tests.fakes.bundles import FLOAT32, sound_manifest, tensor
from tests.fakes.passes import ATTENTION, PLAIN, pass_manifest, seal, write_bundle


def parsed(manifest: dict[str, Any]) -> manifest_pb2.Manifest:
    return json_format.ParseDict(manifest, manifest_pb2.Manifest())


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets the value at a dotted path, or removes it (None)."""

    def apply(manifest: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place: Any = manifest
        for part in parents:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return apply


PASSES = "variants.0.passes"
FIRST = f"variant fp32, {PLAIN}"
SECOND = f"variant fp32, {ATTENTION}"
BROKEN = {
    "no single pass": (change("single_pass", None), "single_pass is missing"),
    "a state": (change("states", [{"name": "cache"}]), "states: a single-pass model has none"),
    "no graph": (change(PASSES, []), "variant fp32: no graph"),
    "an encode graph": (change("variants.0.encode", {"file": "encode.onnx"}), "variant fp32: a single-pass model has neither"),
    "a step graph": (change("variants.0.steps", [{}]), "variant fp32: a single-pass model has neither"),
    "no file": (change(f"{PASSES}.0.graph.file", ""), "(empty name) is named but not listed"),
    "no batch": (change(f"{PASSES}.0.max_batch", 0), f"{FIRST}: max_batch 0 is not between 1 and 1024"),
    "a huge batch": (change(f"{PASSES}.1.max_batch", 1025), f"{SECOND}: max_batch 1025 is not between 1 and 1024"),
    "no inputs": (change(f"{PASSES}.0.graph.inputs", []), f"{FIRST}: it needs inputs and outputs"),
    "first axis": (change(f"{PASSES}.0.graph.outputs.0.axes.0", "row"), f'{FIRST}: classes: its first axis is not "batch"'),
    "batch twice": (change(f"{PASSES}.0.graph.outputs.0.axes.1", "batch"), f"{FIRST}: classes: axes ['batch', 'batch', 'width']"),
    "empty axis": (change(f"{PASSES}.0.graph.outputs.0.axes.1", ""), f"{FIRST}: classes: axes ['batch', '', 'width']"),
    "axis of nothing": (change(f"{PASSES}.0.graph.outputs.0.axes.1", "0"), f"{FIRST}: classes: axes ['batch', '0', 'width']"),
    "no axes": (change(f"{PASSES}.0.graph.outputs.0.axes", []), f'{FIRST}: classes: its first axis is not "batch"'),
    "no type": (change(f"{PASSES}.0.graph.outputs.0.dtype", None), f"{FIRST}: classes: no known element type"),
    "a name twice": (change(f"{PASSES}.0.graph.outputs.1.name", "classes"), f"{FIRST}: classes is there twice"),
    "image type": (change(f"{PASSES}.0.graph.inputs.0.dtype", FLOAT32), f"{FIRST}: input image is not DATA_TYPE_UINT8 (batch, height, width, 3)"),
    "image axes": (change(f"{PASSES}.0.graph.inputs.0.axes.3", "4"), f"{FIRST}: input image is not DATA_TYPE_UINT8"),
    "image of another size": (change(f"{PASSES}.0.graph.inputs.0.axes.1", "16"), f"{FIRST}: input image does not take 16x8"),
    "size axes": (change(f"{PASSES}.0.graph.inputs.1.axes.1", "3"), f"{FIRST}: input size is not DATA_TYPE_INT64 (batch, 2)"),
    "size without image": (change(f"{PASSES}.0.graph.inputs.0.name", "picture"), f"{FIRST}: it has the input size and no input image"),
    "query type": (change(f"{PASSES}.1.graph.inputs.2.dtype", FLOAT32), f"{SECOND}: input query is not DATA_TYPE_INT64 (batch, query)"),
    "no fit": (change("single_pass.picture.fit", None), f"{FIRST}: input image, and single_pass.picture.fit is not known"),
    "padding without size": (change("single_pass.picture.fit", "FIT_STRETCH"), f"{FIRST}: the input size belongs to FIT_PAD"),
    "no sizes": (change("single_pass.picture.sizes", []), f"{FIRST}: input image, and single_pass.picture.sizes is empty"),
    "size of nothing": (change("single_pass.picture.sizes.1.width", 0), "single_pass.picture.sizes[1]: 0x16 is not between 1x1"),
    "huge size": (change("single_pass.picture.sizes.1.width", 9000), "sizes[1]: 9000x16 is not between 1x1 and 8192x8192"),
    "size twice": (change("single_pass.picture.sizes.2.height", 16), "single_pass.picture.sizes: 8x16 is there twice"),
    "label without name": (change("single_pass.labels.1.name", ""), "single_pass.labels[1]: no name"),
    "label twice": (change("single_pass.labels.1.name", "sky"), "single_pass.labels: 'sky' is there twice"),
    "colour": (change("single_pass.labels.1.colour", 1 << 24), "single_pass.labels[1]: colour 16777216 has more than three bytes"),
    "attention without graph": (change(f"{PASSES}.1", None), "variant fp32: no graph gives attention"),
    "attention not declared": (change("single_pass.attention", []), f"{SECOND}: it gives attention, and single_pass.attention is empty"),
    "attention is no output": (change("single_pass.attention.0.output", "ternary"), f"{SECOND}: no output ternary"),
    "attention twice": (change("single_pass.attention.0.output", "pairwise"), "single_pass.attention: 'pairwise' is there twice"),
    "attention without role": (change("single_pass.attention.0.role", None), "single_pass.attention unary: no known role"),
    "attention of other axes": (
        change("single_pass.attention.0.role", "ATTENTION_ROLE_SPATIAL"), f"{SECOND}: output unary: its axes are not those of its role"
    ),
    "attention unasked": (
        lambda manifest: manifest["variants"][0]["passes"][0]["graph"]["outputs"].append(tensor("unary", FLOAT32, "batch", "cell")),
        f"{FIRST}: it has the attention output unary, and does not give attention",
    ),
    "half an answer": (change(f"{PASSES}.1.graph.outputs.1", None), "variant fp32: the graphs have other outputs beside the attention"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_fault_is_named(fault: str) -> None:
    manifest = copy.deepcopy(pass_manifest())
    break_it, text = BROKEN[fault]
    assert single_pass_problems(parsed(manifest)) == [], "it was sound"
    break_it(manifest)
    problems = single_pass_problems(parsed(manifest))
    assert any(text in problem for problem in problems), problems


def test_one_size_may_be_fixed_and_a_model_without_pictures_needs_none() -> None:
    manifest = pass_manifest()
    manifest["single_pass"]["picture"]["sizes"] = [{"width": 16, "height": 8}]
    for each in manifest["variants"][0]["passes"]:
        each["graph"]["inputs"][0] = tensor("image", "DATA_TYPE_UINT8", "batch", "8", "16", "3")
    assert single_pass_problems(parsed(manifest)) == []
    for each in manifest["variants"][0]["passes"]:
        each["graph"]["inputs"][:2] = [tensor("sound", FLOAT32, "batch", "time")]
    del manifest["single_pass"]["picture"]
    assert single_pass_problems(parsed(manifest)) == []


def test_model_that_decodes_step_by_step_is_no_single_pass_model() -> None:
    manifest = sound_manifest()
    assert iterative_problems(parsed(manifest)) == []
    manifest["variants"][0]["passes"] = pass_manifest()["variants"][0]["passes"]
    assert iterative_problems(parsed(manifest)) == ["single_pass: models of this task decode step by step"]
    assert {PLAIN, ATTENTION, "encode.onnx", "step.onnx"} <= named_files(parsed(manifest))


def test_files_of_passes_are_named_and_a_vocabulary_only_where_there_is_one() -> None:
    manifest = pass_manifest()
    assert named_files(parsed(manifest)) == {PLAIN, ATTENTION}
    manifest["vocabulary"] = {"sentencepiece_file": "pieces.model"}
    assert named_files(parsed(manifest)) == {PLAIN, ATTENTION, "pieces.model"}


def test_largest_batch_is_that_of_the_graph_that_runs_unless_it_is_set() -> None:
    manifest = pass_manifest()
    first, second = manifest["variants"][0]["passes"]
    first["max_batch"], second["max_batch"] = 8, 2
    (variant,) = parsed(manifest).variants
    assert [largest_batch(variant, wants_attention=wants) for wants in (False, True)] == [8, 2]
    assert largest_batch(variant, wants_attention=True, asked=5) == 5
    del variant.passes[0]
    assert largest_batch(variant, wants_attention=False) == 2, "one graph gives both"
    assert largest_batch(manifest_pb2.Variant(), wants_attention=False) == 1


def refused(folder: Path) -> list[str]:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    return caught.value.problems


def test_bundle_is_loaded_by_the_check_of_its_own_kind(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    assert [each.graph.file for each in load_bundle(folder).variant.passes] == [PLAIN, ATTENTION]
    (folder / PLAIN).write_bytes(b"another graph")
    assert refused(folder) == [f"{PLAIN} is not the file that was listed (SHA-256 differs)"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format_version": 3}, "format version 3; this server reads 1 and 2"),
        ({"format_version": 1}, "format version 1 has neither requires, nor single_pass, nor passes, nor block_rows"),
        (
            {"format_version": 1, "requires": []},
            "format version 1 has neither requires, nor single_pass, nor passes, nor block_rows",
        ),
        ({"requires": []}, "format version 2, and requires is empty"),
        ({"requires": ["video", "single_pass", "adapters"]}, "it requires adapters, video, which this server does not support"),
        ({"requires": ["video"], "frames": 5}, "it requires video, which this server does not support"),
        ({"format_version": 3, "frames": 5}, "format version 3; this server reads 1 and 2"),
    ],
)
def test_version_and_requirements_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    folder = write_bundle(tmp_path)
    seal(folder, pass_manifest() | changes)
    assert refused(folder) == [problem]


def test_version_1_of_another_kind_requires_nothing(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    seal(folder, sound_manifest() | {"format_version": 1, "requires": ["single_pass"]})
    assert refused(folder) == ["format version 1 has neither requires, nor single_pass, nor passes, nor block_rows"]


def test_unknown_field_of_a_sound_version_is_named(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    seal(folder, pass_manifest() | {"surprise": 1})
    (problem,) = refused(folder)
    assert problem.startswith("manifest.json: ")
    assert "surprise" in problem
