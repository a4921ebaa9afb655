# SPDX-License-Identifier: Apache-2.0
"""What a served model says about its variant's graphs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from attnserve.v1 import manifest_pb2
from attnserve_server.engine.models import ServedModel


def served(*outputs: list[str]) -> ServedModel:
    """As much of a model as its properties need: a step graph for each list of outputs."""
    graphs = [manifest_pb2.Graph(outputs=[manifest_pb2.Tensor(name=name) for name in names]) for names in outputs]
    variant = manifest_pb2.Variant(steps=[manifest_pb2.StepGraph(graph=graph) for graph in graphs])
    model = ServedModel.__new__(ServedModel)
    model.bundle = SimpleNamespace(variant=variant)  # type: ignore[assignment]
    return model


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([["logits"]], True),
        ([["log_probs", "top_log_probs", "top_tokens"]], True),
        ([["top_log_probs", "top_tokens"]], False),
        ([["logits"], ["top_log_probs", "top_tokens"]], False),
    ],
)
def test_gives_scores(outputs: list[list[str]], expected: bool) -> None:
    assert served(*outputs).gives_scores is expected
