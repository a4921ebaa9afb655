# SPDX-License-Identifier: Apache-2.0
"""A single-pass bundle for CUDA whose operators need no cuDNN, which the stand-ins do not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.fakes.passes import CELL, CLASSES, pass_manifest, seal, values

UNCAPTURED = "uncaptured"
"""Model id of a bundle with an operator that only the CPU has: it cannot be captured."""


def write_bundle(models: Path, model_id: str) -> Path:
    """Writes the bundle; returns its folder."""
    manifest = pass_manifest(model_id=model_id)
    manifest["variants"][0]["device"] = "DEVICE_CUDA"
    folder = models / model_id / "1"
    folder.mkdir(parents=True)
    for each in manifest["variants"][0]["passes"]:
        onnx.save(_graph(each["graph"], is_captured=model_id != UNCAPTURED), folder / each["graph"]["file"])
    seal(folder, manifest)
    return folder


def _graph(declared: dict[str, Any], *, is_captured: bool) -> onnx.ModelProto:
    constants = {
        "weights": np.ones((3, CLASSES), np.float32),
        "sum": np.ones((CLASSES, 1), np.float32),
        "starts": np.array([0, 0], np.int64),
        "ends": np.array([1 << 20, 1 << 20], np.int64),
        "axes": np.array([1, 2], np.int64),
        "strides": np.array([CELL, CELL], np.int64),
        "cell_axis": np.array([0, -1, CLASSES], np.int64),
        "flat": np.array([0, -1], np.int64),
        "last": np.array([-1], np.int64),
        "bits": np.array(1, np.uint8),
    }
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", ["image"], "floats", {"to": TensorProto.FLOAT}),
        ("MatMul", ["floats", "weights"], "logits", {}),
        ("ArgMax", ["logits"], "index", {"axis": -1, "keepdims": 0}),
        ("Cast", ["index"], "classes", {"to": TensorProto.UINT8}),
        ("Cast", ["index"], "as_float", {"to": TensorProto.FLOAT}),
        ("Cast", ["as_float"], "rounded", {"to": TensorProto.UINT8}),
        ("Identity", ["rounded"], "confidence", {})
        if is_captured
        else ("BitShift", ["rounded", "bits"], "confidence", {"direction": "LEFT"}),
    ]
    if any(each["name"] == "unary" for each in declared["outputs"]):
        steps += [
            ("Slice", ["logits", "starts", "ends", "axes", "strides"], "sampled", {}),
            ("Reshape", ["sampled", "cell_axis"], "cells", {}),
            ("MatMul", ["cells", "sum"], "column", {}),
            ("Reshape", ["column", "flat"], "scores", {}),
            ("Softmax", ["scores"], "unary", {"axis": -1}),
            ("Unsqueeze", ["query", "last"], "places", {}),
            ("GatherND", ["cells", "places"], "asked", {"batch_dims": 1}),
            ("Transpose", ["cells"], "keys", {"perm": [0, 2, 1]}),
            ("MatMul", ["asked", "keys"], "products", {}),
            ("Softmax", ["products"], "pairwise", {"axis": -1}),
        ]
    nodes = [helper.make_node(op, inputs, [output], name=output, **attributes) for op, inputs, output, attributes in steps]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "pass", values(declared["inputs"]), values(declared["outputs"]), weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
