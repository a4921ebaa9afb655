# SPDX-License-Identifier: Apache-2.0
"""The ONNX functions that the int8 rewrite adds to a graph. A graph calls them by name; ONNX Runtime inlines them at load.

Their inputs are weights only, so their nodes are folded at load.
"""

from __future__ import annotations

import onnx
import onnx.parser

DOMAIN = "attnserve.int8"
TINY = 1e-30  # replaces a scale of zero, for a column or row of zeros
_OPSET = 23

_TEXTS = {
    # The weight and bias of a LayerNormalization, moved into the product after it: (gamma n + beta) W + b = n W' + b'.
    "Folded": """(weight, bias, gamma, beta) => (folded, shifted) {
        column = Unsqueeze (gamma, last)
        folded = Mul (weight, column)
        shift = MatMul (beta, weight)
        shifted = Add (shift, bias)
    }""",
    # A matrix in integer levels, and the size of a level in each column.
    "Quantized": """(weight, levels) => (integers, level) {
        magnitude = Abs (weight)
        largest = ReduceMax <keepdims = 0> (magnitude, first)
        some = Max (largest, tiny)
        level = Div (some, levels)
        exact = Div (weight, level)
        rounded = Round (exact)
        integers = Cast <to = 3> (rounded)
    }""",
    # For rows of norm at most ``longest``: the upper bound of n W + b, and level and bias as fractions of that bound.
    "Bounded": """(weight, bias, level, longest) => (part, shift, reach) {
        norm = ReduceL2 <keepdims = 0> (weight, first)
        swing = Mul (norm, longest)
        positive = Relu (bias)
        most = Add (swing, positive)
        reach = Max (most, tiny)
        part = Div (level, reach)
        shift = Div (bias, reach)
    }""",
    # A matrix for inputs that are given as fractions of ``reach``.
    "Rescaled": """(weight, reach) => (rescaled) {
        column = Unsqueeze (reach, last)
        rescaled = Mul (weight, column)
    }""",
}
_CONSTANTS = {
    "first": "first = Constant <value_ints = [0]> ()",
    "last": "last = Constant <value_ints = [-1]> ()",
    "tiny": f"tiny = Constant <value_float = {TINY}> ()",
}


def function(name: str) -> onnx.FunctionProto:
    """Returns one of the functions."""
    head, _, body = _TEXTS[name].partition("{")
    constants = "\n".join(text for word, text in _CONSTANTS.items() if f", {word})" in body)
    text = f'<domain: "{DOMAIN}", opset_import: ["" : {_OPSET}]> {name} {head} {{ {constants} {body}'
    return onnx.parser.parse_function(text)
