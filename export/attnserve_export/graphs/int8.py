# SPDX-License-Identifier: Apache-2.0
"""Rewrites a float32 graph into its int8 form for the CPU. It uses the same stored weights; no row's result depends on another row.

**Weights** stay as stored. Nodes over constants quantise them, symmetrically, with one scale a column; ONNX Runtime folds
these nodes when it loads the graph. The levels are -64 to 64: x86 processors without VNNI add two products of an unsigned and a
signed byte in 16 bits, saturating, and 2 * 255 * 64 does not overflow. So every processor computes the same integers.

**Activations** are quantised by row, in one of four forms:

* after a LayerNormalization, which already scales each row. Its weight and bias move into the product; the rest has no value above
  sqrt(d) in a row of d, so the scale is a constant and one node is added;
* after a ReLU of such a product: column j is at most its bias plus sqrt(d) times the norm of its weights (Cauchy-Schwarz). The
  first product gives its columns as fractions of that bound, and the quantisation of the second product's input clips at 0, which
  is the ReLU;
* values with a proven bound (``reach.py``): GRU and LSTM states, which lie in [-1, 1]; means, by attention, of values that are
  products behind a LayerNormalization. The scale is a constant, and one node is added;
* any other input, as fractions of the row's largest absolute value. That adds seven nodes, so it is done for wide products only:
  the output layer's.

The other products stay in float32: at the sizes served here, quantising costs as much as it saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from attnserve_export.graphs.int8_functions import DOMAIN, TINY, function
from attnserve_export.graphs.parts import part_of
from attnserve_export.graphs.products import GraphIndex, Product
from attnserve_export.graphs.reach import Reach, Reaches

WEIGHT_LEVELS = 64
"""Largest magnitude of a quantised weight."""
MIN_COLUMNS = 1024
"""Minimum number of columns of a product whose rows are scaled by their largest absolute value."""
MIN_WEIGHTS = 1 << 14
"""Minimum number of weights of a product whose input has a proven bound."""
_ZERO_POINT = 128  # of rows that may be negative: 127 levels below, 127 above
_CONTRIB = "com.microsoft"


def int8_graph(model: onnx.ModelProto, reach: Reach = lambda name: math.inf) -> onnx.ModelProto | None:
    """Returns the int8 form of a float32 graph with its weights as initializers, or None if no product is worth quantising.

    Args:
        model: the graph.
        reach: the upper bound of the magnitudes of the input or output of this name, or infinity.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    index = GraphIndex(copy.graph)
    writer = _Writer(index, Reaches(index, reach))
    nodes = list(copy.graph.node)
    written: list[NodeProto] = []
    for node in nodes:
        product = index.products.get(id(node))
        if product is None or not writer.write(product):
            writer.new.append(node)
        written += writer.take()
    if not writer.dropped:
        return None
    del copy.graph.node[:], copy.graph.value_info[:]
    copy.graph.node.extend(writer.without_weight(node) for node in written if id(node) not in writer.dropped)
    copy.graph.initializer.extend(writer.constants.values())
    copy.functions.extend(function(name) for name in sorted({node.op_type for node in written if node.domain == DOMAIN}))
    known = {each.domain for each in copy.opset_import}
    copy.opset_import.extend(helper.make_opsetid(domain, 1) for domain in (_CONTRIB, DOMAIN) if domain not in known)
    return copy


@dataclass(slots=True)
class _Row:
    """Quantised rows, or rows to be quantised: the size of a level, and the level that represents zero."""

    name: str
    level: str
    zero: str


class _Writer:
    """Writes the nodes that replace products."""

    def __init__(self, index: GraphIndex, reaches: Reaches) -> None:
        self.index, self.reaches = index, reaches
        self.new: list[NodeProto] = []
        self.dropped: set[int] = set()
        self.constants: dict[str, onnx.TensorProto] = {}
        self._part = ""
        self._bare: dict[int, NodeProto] = {}
        self._rows: dict[tuple[str, str], list[str]] = {}
        self._num_values = 0

    def take(self) -> list[NodeProto]:
        """Returns the nodes written since the last call."""
        new, self.new = self.new, []
        return new

    def without_weight(self, node: NodeProto) -> NodeProto:
        """Returns the node; for a LayerNormalization, without the weight and bias that moved into the products after it."""
        return self._bare.get(id(node), node)

    def write(self, product: Product) -> bool:
        """Writes the int8 form of a product, and of the product after its ReLU; returns false if there is none."""
        if id(product.node) in self.dropped:
            return True
        self._part = part_of(product.node)
        norm = self.index.norm(product)
        if norm is not None and self.index.is_for_products(norm.output[0]):
            self._write_behind_norm(product, norm)
        elif product.num_rows * product.num_columns >= MIN_WEIGHTS and (reach := self.reaches.of(product.node.input[0])) < math.inf:
            self._write_bounded(product, max(reach, TINY))
        elif product.num_columns >= MIN_COLUMNS:
            self._write_by_largest(product)
        else:
            return False
        self._drop(product)
        return True

    def _write_behind_norm(self, product: Product, norm: NodeProto) -> None:
        longest = math.sqrt(product.num_rows)
        row = _Row(product.node.input[0], self._scalar(longest / 127), self._constant("zero", np.uint8(_ZERO_POINT)))
        if id(norm) not in self._bare:
            self._bare[id(norm)] = helper.make_node("LayerNormalization", [norm.input[0]], norm.output, norm.name)
            self._bare[id(norm)].attribute.extend(norm.attribute)
            self._bare[id(norm)].input.append(self._constant("ones", np.ones(product.num_rows, np.float32)))
        shift = norm.input[2] if len(norm.input) > 2 else self._constant("zeros", np.zeros(product.num_rows, np.float32))
        weight, bias = self._call("Folded", self._matrix(product), product.bias or self._scalar(0.0), norm.input[1], shift)
        row.name = self._once("norm", row.name, lambda: self._node("QuantizeLinear", row.name, row.level, row.zero))[0]
        following = self.index.behind_relu(product)
        if following is None:
            self._multiply(row, self._quantized(weight), bias, product.output)
        else:
            self._write_with_relu((row, weight, bias), longest, *following)

    def _write_with_relu(self, inner: tuple[_Row, str, str], longest: float, relu: NodeProto, outer: Product) -> None:
        row, weight, bias = inner
        integers, level = self._quantized(weight)
        part, shift, reach = self._call("Bounded", weight, bias, level, self._scalar(longest), num_outputs=3)
        hidden = _Row(
            self._multiply(row, [integers, part], shift), self._scalar(1 / 255), self._constant("none", np.uint8(0))
        )  # from 0 to 1, as a fraction of each column's bound
        hidden.name = self._node("QuantizeLinear", hidden.name, hidden.level, hidden.zero)[0]
        matrix = self._call("Rescaled", self._matrix(outer), reach, num_outputs=1)[0]
        self._multiply(hidden, self._quantized(matrix), outer.bias, outer.output)
        self.dropped.add(id(relu))
        self._drop(outer)

    def _write_bounded(self, product: Product, reach: float) -> None:
        row = _Row(product.node.input[0], self._scalar(reach / 127), self._constant("zero", np.uint8(_ZERO_POINT)))
        row.name = self._once("bounded", row.name, lambda: self._node("QuantizeLinear", row.name, row.level, row.zero))[0]
        self._multiply(row, self._quantized(self._matrix(product)), product.bias, product.output)

    def _write_by_largest(self, product: Product) -> None:
        row = _Row(product.node.input[0], self._scalar(1 / 127), self._constant("zero", np.uint8(_ZERO_POINT)))
        row.name, largest = self._once("largest", row.name, lambda: self._scaled(row))
        parts = self._multiply(row, self._quantized(self._matrix(product)))
        if product.bias:
            (scaled,) = self._node("Mul", parts, largest)
            self._node("Add", scaled, product.bias, output=product.output)
        else:
            self._node("Mul", parts, largest, output=product.output)

    def _scaled(self, row: _Row) -> list[str]:
        """Writes the division of each row by its largest absolute value; returns the quantised rows and that value."""
        (magnitude,) = self._node("Abs", row.name)
        (most,) = self._node("ReduceMax", magnitude, self._constant("last", np.array([-1])))
        (largest,) = self._node("Max", most, self._scalar(TINY))
        (part,) = self._node("Div", row.name, largest)
        return [*self._node("QuantizeLinear", part, row.level, row.zero), largest]

    def _once(self, form: str, name: str, write: Callable[[], list[str]]) -> list[str]:
        """Returns the outputs of ``write``, which is called once for each form of a value."""
        if (form, name) not in self._rows:
            self._rows[form, name] = write()
        return self._rows[form, name]

    def _drop(self, product: Product) -> None:
        self.dropped.add(id(product.node))
        if product.add is not None:
            self.dropped.add(id(product.add))

    def _matrix(self, product: Product) -> str:
        return self._node("Transpose", product.matrix)[0] if product.is_transposed else product.matrix

    def _quantized(self, matrix: str) -> list[str]:
        return self._call("Quantized", matrix, self._scalar(float(WEIGHT_LEVELS)))

    def _multiply(self, row: _Row, matrix: list[str], bias: str = "", output: str = "") -> str:
        integers, level = matrix
        inputs = [row.name, integers, row.level, level, row.zero, *(["", bias] if bias else [])]
        return self._node("MatMulIntegerToFloat", *inputs, domain=_CONTRIB, output=output)[0]

    def _call(self, name: str, *inputs: str, num_outputs: int = 2) -> list[str]:
        return self._node(name, *inputs, domain=DOMAIN, num_outputs=num_outputs)

    def _node(self, op: str, *inputs: str, domain: str = "", output: str = "", num_outputs: int = 1) -> list[str]:
        outputs = [output] if output else [self._value() for _ in range(num_outputs)]
        self.new.append(helper.make_node(op, inputs, outputs, f"{self._part}/{op}_{outputs[0]}", domain=domain or None))
        return outputs

    def _value(self) -> str:
        self._num_values += 1
        return f"int8.{self._num_values}"

    def _scalar(self, value: float) -> str:
        return self._constant(str(np.float32(value)), np.float32(value))

    def _constant(self, name: str, value: Any) -> str:
        array = np.asarray(value)
        name = f"int8/{name}/{'x'.join(map(str, array.shape))}" if array.shape else f"int8/{name}"
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name
