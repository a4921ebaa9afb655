# SPDX-License-Identifier: Apache-2.0
"""Analyses a float32 graph for int8: its products with constant matrices, and the bounds of their input rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto, helper, numpy_helper

_BOUNDED = {"Tanh": [0], "Sigmoid": [0], "Softmax": [0], "GRU": [0, 1], "LSTM": [0, 1]}
"""Operators, and the indices of their outputs that lie in [-1, 1]."""
_MOVING = frozenset({"Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that only reorder their input's values."""


@dataclass(slots=True)
class Product:
    """A product with a constant matrix, and the constant vector that is added to it."""

    node: NodeProto
    matrix: str
    is_transposed: bool
    num_rows: int
    num_columns: int
    bias: str
    add: NodeProto | None  # the node that adds the bias, if the bias is not an input of the product

    @property
    def output(self) -> str:
        """The name of the product's output with its bias added."""
        return self.node.output[0] if self.add is None else self.add.output[0]


class GraphIndex:
    """The producer and the readers of each value of a graph, and the graph's products."""

    def __init__(self, graph: onnx.GraphProto, is_bounded: Callable[[str], bool]) -> None:
        self._bounded = {value.name for value in (*graph.input, *graph.output) if is_bounded(value.name)}
        self.shapes = {each.name: tuple(each.dims) for each in graph.initializer}
        self.values = {each.name: numpy_helper.to_array(each).tolist() for each in graph.initializer if each.dims == [1]}
        self.outputs = {value.name for value in graph.output}
        self.producers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        found = [self._product(node) for node in graph.node]
        self.products = {id(each.node): each for each in found if each is not None}

    def only_reader(self, name: str) -> NodeProto | None:
        """Returns the only node that reads a value, or None."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def norm(self, product: Product) -> NodeProto | None:
        """Returns the LayerNormalization whose output is a product's input, if only products read that output."""
        node = self.producers.get(product.node.input[0])
        while node is not None and self._takes_rows(node):
            node = self.producers.get(node.input[0])
        if node is None or node.op_type != "LayerNormalization" or _attributes(node).get("axis", -1) != -1:
            return None
        is_known = all(self.shapes.get(name) == (product.num_rows,) for name in node.input[1:])
        return node if is_known and self._is_for_products(node.output[0]) else None

    def behind_relu(self, product: Product) -> tuple[NodeProto, Product] | None:
        """Returns the ReLU of a product and the next product, if nothing else reads the values between them."""
        relu = self.only_reader(product.output)
        reader = None if relu is None or relu.op_type != "Relu" else self.only_reader(relu.output[0])
        if relu is None or reader is None or id(reader) not in self.products:
            return None
        return relu, self.products[id(reader)]

    def is_bounded(self, name: str) -> bool:
        """Whether a value provably lies in [-1, 1]."""
        node = self.producers.get(name)
        if name in self._bounded or node is None:
            return name in self._bounded
        if node.op_type in _BOUNDED:
            is_usual = "activations" not in _attributes(node) and not (node.op_type == "GRU" and any(node.input[5:]))
            return is_usual and node.output[:].index(name) in _BOUNDED[node.op_type]
        if node.op_type in _MOVING:
            return all(self.is_bounded(each) for each in node.input[: len(node.input) if node.op_type == "Concat" else 1])
        if node.op_type == "Mul":
            return all(self.is_bounded(each) for each in node.input)
        return node.op_type == "MatMul" and self._is_distribution(node.input[0]) and self.is_bounded(node.input[1])

    def _is_distribution(self, name: str) -> bool:
        """Whether the last axis is the output of a softmax; an axis of size 1 may have been inserted before it."""
        node = self.producers.get(name)
        if node is not None and node.op_type == "Unsqueeze" and self.values.get(node.input[1]) in ([0], [1], [-2]):
            node = self.producers.get(node.input[0])
        return node is not None and node.op_type == "Softmax" and _attributes(node).get("axis", -1) == -1

    def _takes_rows(self, node: NodeProto) -> bool:
        """Whether a node is x[:, i], which selects whole rows of (row, 1, width)."""
        return node.op_type == "Gather" and _attributes(node).get("axis", 0) == 1 and self.shapes.get(node.input[1]) == ()

    def _is_for_products(self, name: str) -> bool:
        return name not in self.outputs and all(
            id(node) in self.products
            or (self._takes_rows(node) and node.input[0] == name and self._is_for_products(node.output[0]))
            for node in self.readers.get(name, [])
        )

    def _is_constant(self, name: str) -> bool:
        """Whether a value depends on no input: ONNX Runtime computes it at load, so it has no cost in a step."""
        if name in self.shapes or not name:
            return True
        node = self.producers.get(name)
        return node is not None and all(self._is_constant(each) for each in node.input)

    def _product(self, node: NodeProto) -> Product | None:
        attributes = _attributes(node)
        is_plain = not attributes.get("transA", 0) and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
        if node.op_type not in ("MatMul", "Gemm") or not is_plain or len(self.shapes.get(node.input[1], ())) != 2:
            return None
        if self._is_constant(node.input[0]):
            return None
        is_transposed = bool(attributes.get("transB", 0))
        shape = self.shapes[node.input[1]]
        num_rows, num_columns = (shape[1], shape[0]) if is_transposed else (shape[0], shape[1])
        product = Product(node, node.input[1], is_transposed, num_rows, num_columns, "", None)
        if len(node.input) > 2:
            product.bias = node.input[2]
            return product if self.shapes.get(product.bias) == (num_columns,) else None
        reader = self.only_reader(node.output[0])
        if reader is not None and reader.op_type == "Add":
            others = [name for name in reader.input if self.shapes.get(name) == (num_columns,)]
            if others:
                product.bias, product.add = others[0], reader
        return product


def _attributes(node: NodeProto) -> Mapping[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}
