# SPDX-License-Identifier: Apache-2.0
"""Analyses a float32 graph for int8: its products with constant matrices, and the nodes around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto, helper, numpy_helper


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

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.weights = {each.name: each for each in graph.initializer}
        self.ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in graph.value_info}
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
        """Returns the LayerNormalization whose output, or rows of it, is a product's input."""
        node = self.producers.get(product.node.input[0])
        while node is not None and self._takes_rows(node):
            node = self.producers.get(node.input[0])
        if node is None or node.op_type != "LayerNormalization" or attributes_of(node).get("axis", -1) != -1:
            return None
        return node if all(self.shapes.get(name) == (product.num_rows,) for name in node.input[1:]) else None

    def behind_relu(self, product: Product) -> tuple[NodeProto, Product] | None:
        """Returns the ReLU of a product and the next product, if nothing else reads the values between them."""
        relu = self.only_reader(product.output)
        reader = None if relu is None or relu.op_type != "Relu" else self.only_reader(relu.output[0])
        if relu is None or reader is None or id(reader) not in self.products:
            return None
        return relu, self.products[id(reader)]

    def made_by(self, node: NodeProto) -> Product | None:
        """Returns the product whose output, with its bias added, is that of this node."""
        made = [self.products.get(id(each)) for each in (node, *(self.producers.get(name) for name in node.input))]
        return next((each for each in made if each is not None and (each.node if each.add is None else each.add) is node), None)

    def _takes_rows(self, node: NodeProto) -> bool:
        """Whether a node is x[:, i], which selects whole rows of (row, 1, width)."""
        return node.op_type == "Gather" and attributes_of(node).get("axis", 0) == 1 and self.shapes.get(node.input[1]) == ()

    def is_for_products(self, name: str) -> bool:
        """Whether only products read a value, or rows of it."""
        return name not in self.outputs and all(
            id(node) in self.products or (self._takes_rows(node) and node.input[0] == name and self.is_for_products(node.output[0]))
            for node in self.readers.get(name, [])
        )

    def _is_constant(self, name: str) -> bool:
        """Whether a value depends on no input: ONNX Runtime computes it at load, so it has no cost in a step."""
        if name in self.shapes or not name:
            return True
        node = self.producers.get(name)
        return node is not None and all(self._is_constant(each) for each in node.input)

    def _product(self, node: NodeProto) -> Product | None:
        attributes = attributes_of(node)
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


def attributes_of(node: NodeProto) -> Mapping[str, Any]:
    """Returns a node's attributes by name."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}
