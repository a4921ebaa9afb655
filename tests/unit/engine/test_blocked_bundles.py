# SPDX-License-Identifier: Apache-2.0
"""Manifests with step graphs that take rows in blocks, and what the loader finds wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnserve_server.bundle.loader import load_bundle
from attnserve_server.errors import BundleError
from tests.fakes.bundles import FLOAT32, INT64, sound_bundle, sound_manifest, tensor

Manifest = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sound_bundle(tmp_path)


def blocked_manifest() -> Manifest:
    """The sound manifest with a graph for blocks of four rows."""
    manifest = sound_manifest()
    (step,) = manifest["variants"][0]["steps"]
    graph = step["graph"]
    inputs = [each for each in graph["inputs"] if each["name"] != "request_of_row"]
    outputs = [tensor("top_log_probs", FLOAT32, "row", "8"), tensor("top_tokens", INT64, "row", "8"), graph["outputs"][1]]
    blocked = {"graph": {"file": graph["file"], "inputs": inputs, "outputs": outputs}, "max_rows_of_request": 4, "block_rows": 4}
    manifest["variants"][0]["steps"] = [blocked, step]
    return manifest | {"format_version": 2, "requires": ["blocked_steps"]}


def load(folder: Path, manifest: Manifest) -> Any:
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return load_bundle(folder)


def test_blocks_are_loaded(folder: Path) -> None:
    bundle = load(folder, blocked_manifest())
    assert [step.block_rows for step in bundle.variant.steps] == [4, 0]


def in_block(change: Callable[[Any], Any]) -> Callable[[Manifest], Any]:
    """Applies a change to the graph for blocks."""
    return lambda manifest: change(manifest["variants"][0]["steps"][0])


BROKEN: dict[str, tuple[Callable[[Manifest], Any], str]] = {
    "not required": (lambda manifest: manifest.update(requires=[]), "format version 2, and requires is empty"),
    "version 1": (
        lambda manifest: manifest.update(format_version=1),
        "format version 1 has neither requires, nor single_pass, nor passes, nor block_rows",
    ),
    "blocks in version 1": (
        lambda manifest: manifest.update(format_version=1, requires=[]),
        "format version 1 has neither requires, nor single_pass, nor passes, nor block_rows",
    ),
    "unknown requirement": (
        lambda manifest: manifest["requires"].append("telepathy"),
        "it requires telepathy, which this server does not support",
    ),
    "unknown requirement and field": (
        lambda manifest: manifest.update(requires=["telepathy"], thoughts=1),
        "it requires telepathy, which this server does not support",
    ),
    "other width": (in_block(lambda step: step.update(max_rows_of_request=5)), "block_rows 4 is not max_rows_of_request"),
    "blocks of one row": (in_block(lambda step: step.update(block_rows=1, max_rows_of_request=1)), "or below 2"),
    "attention": (in_block(lambda step: step.update(gives_attention=True)), "neither gives attention nor maps rows to requests"),
    "routed": (
        in_block(lambda step: step["graph"]["inputs"].append(tensor("request_of_row", INT64, "row"))),
        "neither gives attention nor maps rows to requests",
    ),
    "few candidates": (
        in_block(lambda step: step["graph"]["outputs"][0]["axes"].__setitem__(1, "7")),
        "gives at least 8 candidates",
    ),
    "no tokens": (in_block(lambda step: step["graph"]["outputs"].pop(1)), "gives at least 8 candidates"),
    "no other graph": (lambda manifest: manifest["variants"][0]["steps"].pop(), "no step graph"),
    "narrow other graph": (
        lambda manifest: manifest["variants"][0]["steps"][1].update(max_rows_of_request=3),
        "graphs with block_rows take more rows of a request than the others",
    ),
    "for CUDA": (
        lambda manifest: manifest["variants"].append(manifest["variants"][0] | {"name": "fp16", "device": "DEVICE_CUDA"}),
        "variant fp16: block_rows are for variants for the CPU",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_fault_is_named(folder: Path, fault: str) -> None:
    manifest = blocked_manifest()
    break_it, text = BROKEN[fault]
    break_it(manifest)
    with pytest.raises(BundleError) as raised:
        load(folder, manifest)
    assert any(text in problem for problem in raised.value.problems), raised.value.problems
