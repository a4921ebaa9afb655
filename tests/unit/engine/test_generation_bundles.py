# SPDX-License-Identifier: Apache-2.0
"""Manifests of generation models: what the server requires of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnserve_server.bundle.loader import load_bundle
from attnserve_server.errors import BundleError
from attnserve_server.tasks.registry import TaskTable
from tests.fakes import small_generator
from tests.fakes.passes import seal


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets a value of a nested manifest; numbers are indices."""
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split("/")]

    def apply(manifest: Any) -> None:
        for parent in parents:
            manifest = manifest[parent]
        manifest[last] = value

    return apply


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no requirement": (change("requires", ["single_pass"]), 'single_pass.latent, and requires has no "latent_input"'),
    "unknown requirement": (
        change("requires", ["single_pass", "latent_input", "x"]), "it requires x, which this server does not support",
    ),
    "no latent size": (change("single_pass/latent", {}), "single_pass.latent.size is missing"),
    "no size of the images": (change("single_pass/generated", {"cell": 4}), "single_pass.generated.width is missing"),
    "no labels": (change("single_pass/labels", []), "single_pass.labels is missing"),
    "cells that do not fit": (change("single_pass/generated/cell", 5), "cell: 5 does not divide 16 x 16 pixels"),
    "attention without cells": (change("single_pass/generated/cell", 0), "cell: 0 does not divide"),
    "attention of another role": (
        change("single_pass/attention/0/role", "ATTENTION_ROLE_SPATIAL"), "single_pass.attention: attention has the role 4",
    ),
    "another latent size": (
        change("variants/0/passes/0/graph/inputs/0/axes", ["batch", "7"]), "latent does not have the axes (batch, 6)",
    ),
    "label of another shape": (
        change("variants/0/passes/0/graph/inputs/1/axes", ["batch", "1"]), "label does not have the axes (batch)",
    ),
    "several queries": (
        change("variants/0/passes/1/graph/inputs/2/axes", ["batch", "2"]), "query does not have the axes (batch, 1)",
    ),
    "pixels of another size": (
        change("variants/0/passes/0/graph/outputs/0/axes", ["batch", "8", "16", "3"]),
        "pixels does not have the axes (batch, 16, 16, 3)",
    ),
    "no pixels": (change("variants/0/passes/0/graph/outputs/0/name", "image"), "no output pixels"),
    "latent of another type": (
        change("variants/0/passes/0/graph/inputs/0/dtype", "DATA_TYPE_FLOAT16"), "input latent is not DATA_TYPE_FLOAT32",
    ),
}  # fmt: skip


def loaded(folder: Path) -> Any:
    return load_bundle(folder, check=TaskTable().problems)


def test_sound_bundle_is_loaded(tmp_path: Path) -> None:
    assert loaded(small_generator.write_bundle(tmp_path)).manifest.single_pass.latent.size == small_generator.LATENT


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_manifest_is_refused(tmp_path: Path, name: str) -> None:
    alter, text = FAULTS[name]
    folder, manifest = small_generator.write_bundle(tmp_path), small_generator.manifest()
    alter(manifest)
    seal(folder, manifest)
    with pytest.raises(BundleError) as caught:
        loaded(folder)
    assert text in str(caught.value)
