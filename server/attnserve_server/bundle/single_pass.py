# SPDX-License-Identifier: Apache-2.0
"""Checks that a manifest declares all that the engine of single-pass models needs. Uses protobuf, and no files or graphs."""

from __future__ import annotations

from attnserve.v1 import manifest_pb2


def single_pass_problems(manifest: manifest_pb2.Manifest) -> list[str]:
    """Returns all problems of a single-pass model's manifest."""
    problems = [] if manifest.HasField("single_pass") else ["single_pass is missing"]
    return problems + [f"variant {each.name}: no graph" for each in manifest.variants if not each.passes]
