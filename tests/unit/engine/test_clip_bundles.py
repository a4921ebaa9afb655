# SPDX-License-Identifier: Apache-2.0
"""Manifests of video models: each fault of the clip's input is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import default_models, load_bundle
from attnserve_server.bundle.single_pass import single_pass_problems
from attnserve_server.errors import BundleError
from attnserve_server.tasks.registry import TaskTable

FOLDER = default_models() / "nonlocal-fight" / "1"
Change = Callable[[manifest_pb2.Manifest], Any]


def sound() -> manifest_pb2.Manifest:
    manifest = manifest_pb2.Manifest()
    manifest.CopyFrom(load_bundle(FOLDER).manifest)
    return manifest


def graph(manifest: manifest_pb2.Manifest, number: int = 0) -> manifest_pb2.Graph:
    return manifest.variants[0].passes[number].graph


FAULTS: dict[str, tuple[Change, str]] = {
    "no frames": (lambda m: setattr(m.single_pass.clip, "frames", 0), "single_pass.clip.frames: 0 is not between 1 and 1024"),
    "too many": (lambda m: setattr(m.single_pass.clip, "frames", 1025), "single_pass.clip.frames: 1025 is not between"),
    "no size": (lambda m: m.single_pass.clip.ClearField("size"), "single_pass.clip.size: 0x0 is not between"),
    "sampling": (lambda m: m.single_pass.clip.ClearField("sampling"), "single_pass.clip.sampling is not known"),
    "no cells": (lambda m: m.single_pass.clip.ClearField("cells"), "single_pass.clip.cells: a size is 0"),
    "cells beyond": (lambda m: setattr(m.single_pass.clip.cells, "first_frame", 3), "cells: they reach beyond 32 frames"),
    "other cells": (lambda m: setattr(m.single_pass.clip.cells, "rows", 6), "output pairwise: its cells are not those of single_pass.clip"),
    "other frames": (lambda m: setattr(m.single_pass.clip, "frames", 40), "input clip does not take 40 frames of 112x112"),
    "no clip": (lambda m: m.single_pass.ClearField("clip"), "the input clip belongs to single_pass.clip"),
    "no input": (lambda m: graph(m).inputs.pop(), "the input clip belongs to single_pass.clip"),
    "type": (lambda m: setattr(graph(m).inputs[0], "dtype", manifest_pb2.DATA_TYPE_FLOAT32), "input clip is not DATA_TYPE_UINT8"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named(name: str) -> None:
    change, text = FAULTS[name]
    manifest = sound()
    assert single_pass_problems(manifest) == TaskTable().problems(manifest) == []
    change(manifest)
    assert any(text in problem for problem in single_pass_problems(manifest)), single_pass_problems(manifest)


def test_clip_needs_its_requirement(tmp_path: Path) -> None:
    manifest = sound()
    manifest.requires.remove("clip_input")
    folder = tmp_path / "nonlocal-fight" / "1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json_format.MessageToJson(manifest, preserving_proto_field_name=True), encoding="utf-8")
    with pytest.raises(BundleError, match=r'single_pass.clip, and requires has no "clip_input"'):
        load_bundle(folder)


@pytest.mark.parametrize("output", ["probabilities"])
def test_output_of_the_task_is_required(output: str) -> None:
    manifest = sound()
    for each in manifest.variants[0].passes:
        each.graph.outputs[0].name = "scores"
    assert f"variant fp32, graph 1: no output {output}" in TaskTable().problems(manifest)
