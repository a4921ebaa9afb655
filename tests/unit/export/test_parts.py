# SPDX-License-Identifier: Apache-2.0
"""Each node is named by its part of the paper."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attnserve_export.graphs.parts import name_parts, part_of

PARTS = {"embedding": "embedding", "align": "alignment", "deep": "deep output", "GRU": "encoder"}


def node(operator: str, inputs: str, output: str, scopes: list[str] | None = None) -> onnx.NodeProto:
    made = helper.make_node(operator, inputs.split(), output.split())
    if scopes is not None:
        made.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(scopes))
    return made


def named(nodes: list[onnx.NodeProto], weights: tuple[str, ...] = ()) -> dict[str, str]:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["row", 2])
    initializers = [numpy_helper.from_array(np.zeros(2, np.float32), name) for name in weights]
    graph = helper.make_graph(nodes, "g", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], initializers)
    model = name_parts(helper.make_model(graph), PARTS)
    assert len({each.name for each in model.graph.node}) == len(nodes)
    return {each.output[0]: part_of(each) for each in model.graph.node}


def test_nodes_between_modules_get_a_part() -> None:
    found = named(
        [
            node("Neg", "x", "mask"),
            node("Gather", "x", "e", ["", "model.embedding", "embedding"]),
            node("Gemm", "x", "q", ["", "model.align.0", "linear"]),
            node("Sigmoid", "q", "s"),
            node("Where", "mask s", "w", ["", "where"]),
            node("Gemm", "w", "d", ["", "model.deep", "linear"]),
            node("Add", "d e", "a", ["", "add"]),
            node("Max", "a", "y"),
        ]
    )
    assert found == {
        "mask": "alignment", "e": "embedding", "q": "alignment", "s": "alignment", "w": "alignment",
        "d": "deep output", "a": "deep output", "y": "deep output",
    }  # fmt: skip


def test_weights_and_operators_name_a_part_too() -> None:
    found = named([node("MatMul", "x model.align.weight", "m", ["", "matmul"]), node("GRU", "m w r", "y")], ("model.align.weight",))
    assert found == {"m": "alignment", "y": "encoder"}


def test_node_without_a_part_is_other() -> None:
    assert named([node("Neg", "x", "y")]) == {"y": "other"}
