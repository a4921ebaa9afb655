# SPDX-License-Identifier: Apache-2.0
"""Finds in a float32 graph what int8 needs to know: its products with constant matrices, and what bounds the rows that go in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto, helper, numpy_helper

_BOUNDED = {"Tanh": [0], "Sigmoid": [0], "Softmax": [0], "GRU": [0, 1], "LSTM": [0, 1]}
"""Operators, and which of their outputs lie between -1 and 1."""
_MOVING = frozenset({"Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that give what they are given, in another order."""


@dataclass(slots=True)
class Product:
    """A product with a constant matrix, and the constant vector that is added to it."""

    node: NodeProto
    matrix: str
    is_transposed: bool
    num_rows: int
    num_columns: int
    bias: str
    add: NodeProto | None  # a node of its own, where the bias is not the product's own input

    @property
    def output(self) -> str:
        """The name of what is left behind the product and its bias."""
        return self.node.output[0] if self.add is None else self.add.output[0]


class GraphIndex:
    """Who makes and who reads each value of a graph, and its products."""

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
        """The node that reads a value, if it is the only one."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def norm(self, product: Product) -> NodeProto | None:
        """The LayerNormalization whose rows go into a product, if they go into products alone."""
        node = self.producers.get(product.node.input[0])
        while node is not None and self._takes_rows(node):
            node = self.producers.get(node.input[0])
        if node is None or node.op_type != "LayerNormalization" or _attributes(node).get("axis", -1) != -1:
            return None
        is_known = all(self.shapes.get(name) == (product.num_rows,) for name in node.input[1:])
        return node if is_known and self._is_for_products(node.output[0]) else None

    def behind_relu(self, product: Product) -> tuple[NodeProto, Product] | None:
        """The ReLU of a product and the product behind it, where nothing else reads what is between."""
        relu = self.only_reader(product.output)
        reader = None if relu is None or relu.op_type != "Relu" else self.only_reader(relu.output[0])
        if relu is None or reader is None or id(reader) not in self.products:
            return None
        return relu, self.products[id(reader)]

    def is_bounded(self, name: str) -> bool:
        """Whether a value surely lies between -1 and 1."""
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
        """Whether the last axis is that of a softmax; one may have been put before it."""
        node = self.producers.get(name)
        if node is not None and node.op_type == "Unsqueeze" and self.values.get(node.input[1]) in ([0], [1], [-2]):
            node = self.producers.get(node.input[0])
        return node is not None and node.op_type == "Softmax" and _attributes(node).get("axis", -1) == -1

    def _takes_rows(self, node: NodeProto) -> bool:
        """Whether a node is x[:, i]: it takes whole rows of (row, 1, width)."""
        return node.op_type == "Gather" and _attributes(node).get("axis", 0) == 1 and self.shapes.get(node.input[1]) == ()

    def _is_for_products(self, name: str) -> bool:
        return name not in self.outputs and all(
            id(node) in self.products
            or (self._takes_rows(node) and node.input[0] == name and self._is_for_products(node.output[0]))
            for node in self.readers.get(name, [])
        )

    def _is_constant(self, name: str) -> bool:
        """Whether a value does not depend on any input: ONNX Runtime computes it when it loads the graph, so it costs nothing."""
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
