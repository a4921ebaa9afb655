# SPDX-License-Identifier: Apache-2.0
"""A small classification model with a whole bundle: the mean colour gives the class, and attention follows from the pixels."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.fakes.bundles import FLOAT32, tensor
from tests.fakes.passes import UINT8, seal

MODEL_ID, SIDE, CLASSES = "small-classifier", 8, ("red", "green", "blue", "grey")
INPUT = tensor("image", UINT8, "batch", str(SIDE), str(SIDE), "3")
OUTPUT = tensor("probabilities", FLOAT32, "batch", "class")
MAPS = [tensor("channel", FLOAT32, "batch", "3"), tensor("spatial", FLOAT32, "batch", str(SIDE), str(SIDE))]


def manifest() -> dict[str, Any]:
    """The manifest as JSON, without its files."""
    plain = {"graph": {"file": "pass.onnx", "inputs": [INPUT], "outputs": [OUTPUT]}, "max_batch": 4}
    attention = {
        "graph": {"file": "pass_attention.onnx", "inputs": [INPUT], "outputs": [OUTPUT, *MAPS]},
        "gives_attention": True,
        "max_batch": 4,
    }
    single_pass = {
        "picture": {"sizes": [{"width": SIDE, "height": SIDE}], "fit": "FIT_STRETCH"},
        "labels": [{"name": name} for name in CLASSES],
        "attention": [
            {"output": "channel", "role": "ATTENTION_ROLE_CHANNEL", "block": "only"},
            {"output": "spatial", "role": "ATTENTION_ROLE_SPATIAL", "block": "only"},
        ],
    }
    whole = {
        "format_version": 2,
        "requires": ["single_pass"],
        "model_id": MODEL_ID,
        "version": "1",
        "task": "TASK_CLASSIFICATION",
        "architecture": "made up",
        "single_pass": single_pass,
        "variants": [{"name": "fp32", "device": "DEVICE_CPU", "passes": [plain, attention]}],
    }
    return copy.deepcopy(whole)  # tests change it


def graph(*, gives_attention: bool) -> onnx.ModelProto:
    """The ONNX graph."""
    constants = {
        "weights": np.array([[1, 0, 0, 0.3], [0, 1, 0, 0.3], [0, 0, 1, 0.3]], np.float32) / 64,
        "pixels": np.array([1, 2], np.int64),
        "colours": np.array([3], np.int64),
        "middle": np.array(128, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "pixels"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(CLASSES)])]
    if gives_attention:
        nodes += [
            helper.make_node("Sub", ["means", "middle"], ["centred"]),
            helper.make_node("Sigmoid", ["centred"], ["channel"]),
            helper.make_node("ReduceMean", ["floats", "colours"], ["grey"], keepdims=0),
            helper.make_node("Sub", ["grey", "middle"], ["shade"]),
            helper.make_node("Sigmoid", ["shade"], ["spatial"]),
        ]
        outputs.append(helper.make_tensor_value_info("channel", TensorProto.FLOAT, ["batch", 3]))
        outputs.append(helper.make_tensor_value_info("spatial", TensorProto.FLOAT, ["batch", SIDE, SIDE]))
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "pass", inputs, outputs, weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def write_bundle(models: Path) -> Path:
    """Writes the manifest and its graphs into a model repository; returns the bundle's folder."""
    folder = models / MODEL_ID / "1"
    folder.mkdir(parents=True)
    for file, gives_attention in (("pass.onnx", False), ("pass_attention.onnx", True)):
        onnx.save(graph(gives_attention=gives_attention), folder / file)
    seal(folder, manifest())
    return folder
