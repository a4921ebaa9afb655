# SPDX-License-Identifier: Apache-2.0
"""Names each node of a graph after the part of the paper that it belongs to, so that a profile can attribute a step's time.

A node is called "<part>/<operator>_<number>". The architecture maps modules to parts; the map applies to nodes traced in a module
and to nodes that read its weights. Any other node gets the part of the latest node that it depends on, or else the part of its
reader.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import onnx
from onnx import NodeProto

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key of the modules that a node was traced in: the text of a list, outermost first, then the node itself."""

_CONVOLVING = ("Conv", "Clip")


def name_parts(model: onnx.ModelProto, parts: Mapping[str, str]) -> onnx.ModelProto:
    """Names all nodes, in place.

    Args:
        model: as exported by torch.onnx, with its metadata.
        parts: name of a module (the last component of its path) or of an operator -> part. The innermost module in this
            table counts.

    Returns:
        The same model.
    """
    nodes = list(model.graph.node)
    weights = {each.name for each in model.graph.initializer}
    found = [_own_part(node, parts, weights) for node in nodes]
    of_value: dict[str, tuple[int, str]] = {}
    for index, node in enumerate(nodes):
        made_from = [of_value[name] for name in node.input if name in of_value]
        found[index] = found[index] or max(made_from, default=(0, ""))[1]
        if found[index]:
            of_value |= dict.fromkeys(node.output, (index, found[index]))
    read_by: dict[str, str] = {}
    for index in reversed(range(len(nodes))):
        readers = [read_by[name] for name in nodes[index].output if name in read_by]
        found[index] = found[index] or (readers[0] if readers else "other")
        read_by |= dict.fromkeys(nodes[index].input, found[index])
    for index, (node, part) in enumerate(zip(nodes, found, strict=True)):
        node.name = f"{part}/{node.op_type}_{index}"
    _name_values(nodes, dict.fromkeys(each.name for each in model.graph.output))
    return model


def _name_values(nodes: list[NodeProto], outputs: Container[str]) -> None:
    """Names the outputs of convolutions and their activations after their part: ONNX Runtime names its fused nodes after them."""
    renamed = {
        name: f"{part_of(node)}/{name}"
        for node in nodes
        if node.op_type in _CONVOLVING
        for name in node.output
        if name not in outputs
    }
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


def part_of(node: NodeProto) -> str:
    """Returns the part in a node's name."""
    return node.name.rpartition("/")[0]


def _own_part(node: NodeProto, parts: Mapping[str, str], weights: set[str]) -> str:
    scopes = next((note.value for note in node.metadata_props if note.key == _SCOPES), "")
    modules = scopes.replace("'", " ").replace(",", " ").replace(".", " ").split()
    of_weights = [each for name in node.input if name in weights for each in name.split(".")]
    named = [*reversed(modules), node.op_type, *reversed(of_weights)]
    return next((parts[each] for each in named if each in parts), "")
