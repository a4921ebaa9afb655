# SPDX-License-Identifier: Apache-2.0
"""Proven upper bounds of the magnitudes of a graph's values, from its operators and weights.

In int8, a value with a bound is quantised with a constant scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, numpy_helper

from attnserve_export.graphs.products import GraphIndex, attributes_of

Reach = Callable[[str], float]
"""Upper bound of the magnitudes of a graph's input or output with this name; infinity if none is known."""
Floats = npt.NDArray[np.float64]

_WITHIN_ONE = {"Tanh": [0], "Sigmoid": [0], "Softmax": [0], "GRU": [0, 1], "LSTM": [0, 1]}
"""Operators, and the indices of their outputs that lie in [-1, 1]."""
_MOVING = frozenset({"Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that only reorder or repeat their input's values."""


class Reaches:
    """The bounds of a graph's values.

    Args:
        index: of the graph.
        known: bounds of its inputs and outputs.
    """

    def __init__(self, index: GraphIndex, known: Reach) -> None:
        self._index, self._known = index, known

    def of(self, name: str) -> float:
        """Returns a bound of a value, or infinity.

        A weight has none: with the largest value of a table as its scale, most rows would have few levels.
        """
        node = self._index.producers.get(name)
        known = self._known(name) if node is None or name in self._index.outputs else math.inf
        return known if node is None else min(known, self._of_output(node, node.output[:].index(name)))

    def _of_output(self, node: NodeProto, number: int) -> float:
        if node.op_type in _WITHIN_ONE:
            is_usual = "activations" not in attributes_of(node) and not (node.op_type == "GRU" and any(node.input[5:]))
            return 1.0 if is_usual and number in _WITHIN_ONE[node.op_type] else math.inf
        if node.op_type == "ConstantOfShape":
            value = attributes_of(node).get("value")
            return 0.0 if value is None else float(np.abs(numpy_helper.to_array(value)).max())
        if node.op_type == "Split" and (columns := self._columns_of_part(node, number)) is not None:
            return float(columns.max())
        if node.op_type in _MOVING:
            return max(map(self.of, node.input[: len(node.input) if node.op_type == "Concat" else 1]))
        if node.op_type == "Mul":
            return math.prod(map(self.of, node.input))
        if node.op_type == "GroupQueryAttention" and number in (0, 2):  # means of values; old and new values
            return self._of_attention(node)
        if node.op_type == "MatMul" and self._is_distribution(node.input[0]):
            return self.of(node.input[1])
        columns = self._columns(node)
        return math.inf if columns is None else float(columns.max())

    def _of_attention(self, node: NodeProto) -> float:
        """Of old values (input 4) and new ones: input 2, or the last part of the packed input 0.

        Outputs of positions that are padding may have any value. They are cut off at the bound, and nothing reads them.
        """
        old = self.of(node.input[4]) if len(node.input) > 4 and node.input[4] else 0.0
        if len(node.input) > 2 and node.input[2]:
            return max(old, self.of(node.input[2]))
        packed, attributes = self._index.producers.get(node.input[0]), attributes_of(node)
        columns = None if packed is None else self._columns(packed)
        if columns is None:
            return math.inf
        num_values = attributes["kv_num_heads"]
        width = len(columns) // (attributes["num_heads"] + 2 * num_values)
        return max(old, float(columns[-num_values * width :].max()))

    def _columns(self, node: NodeProto) -> Floats | None:
        """Bounds of the columns of a product behind a LayerNormalization, with its bias (columns,); None of anything else.

        A normalised row n of d values has a norm of at most sqrt(d). So by Cauchy and Schwarz, ``|n . w + b|`` is at most
        ``sqrt(d) |w| + |b|``; w and b include the LayerNormalization's weight and bias.
        """
        product = self._index.made_by(node)
        norm = None if product is None else self._index.norm(product)
        if product is None or norm is None:
            return None
        weight = self._array(product.matrix).T if product.is_transposed else self._array(product.matrix)
        bias = self._array(product.bias) if product.bias else np.zeros(product.num_columns)
        if len(norm.input) > 2:
            bias = bias + self._array(norm.input[2]) @ weight
        longest: Floats = np.linalg.norm(self._array(norm.input[1])[:, None] * weight, axis=0)
        return math.sqrt(product.num_rows) * longest + np.abs(bias)

    def _columns_of_part(self, node: NodeProto, number: int) -> Floats | None:
        """:meth:`_columns` of one output of a split of the columns into equal parts."""
        product, attributes = self._index.producers.get(node.input[0]), attributes_of(node)
        columns = None if product is None else self._columns(product)
        is_of_columns = attributes.get("axis", 0) in (-1, self._index.ranks.get(node.input[0], 0) - 1)
        num_parts = attributes.get("num_outputs", 0)
        if columns is None or not is_of_columns or not num_parts or len(columns) % num_parts:
            return None
        return np.split(columns, num_parts)[number]

    def _is_distribution(self, name: str) -> bool:
        """Whether the last axis is the output of a softmax; an axis of size 1 may have been inserted before it."""
        index = self._index
        node = index.producers.get(name)
        if node is not None and node.op_type == "Unsqueeze" and index.values.get(node.input[1]) in ([0], [1], [-2]):
            node = index.producers.get(node.input[0])
        return node is not None and node.op_type == "Softmax" and attributes_of(node).get("axis", -1) == -1

    def _array(self, name: str) -> Floats:
        array: Any = numpy_helper.to_array(self._index.weights[name])
        found: Floats = array.astype(np.float64)
        return found
