# SPDX-License-Identifier: Apache-2.0
"""A small generation model with a whole bundle: red is the class, green and blue follow from the latent vector."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.fakes.bundles import FLOAT32, INT64, tensor
from tests.fakes.passes import UINT8, seal

MODEL_ID, SIDE, CELL, LATENT = "small-generator", 16, 4, 6
CLASSES = ("airplane", "automobile", "ship")
CELLS = (SIDE // CELL) ** 2
INPUTS = [tensor("latent", FLOAT32, "batch", str(LATENT)), tensor("label", INT64, "batch")]
QUERY = tensor("query", INT64, "batch", "1")
PIXELS = tensor("pixels", UINT8, "batch", str(SIDE), str(SIDE), "3")
MAP = tensor("attention", FLOAT32, "batch", "1", str(CELLS))


def manifest() -> dict[str, Any]:
    """The manifest as JSON, without its files."""
    plain = {"graph": {"file": "pass.onnx", "inputs": [*INPUTS], "outputs": [PIXELS]}, "max_batch": 4}
    attention = {
        "graph": {"file": "pass_attention.onnx", "inputs": [*INPUTS, QUERY], "outputs": [PIXELS, MAP]},
        "gives_attention": True,
        "max_batch": 4,
    }
    single_pass = {
        "labels": [{"name": name} for name in CLASSES],
        "attention": [{"output": "attention", "role": "ATTENTION_ROLE_PAIRWISE", "block": "only"}],
        "latent": {"size": LATENT},
        "generated": {"width": SIDE, "height": SIDE, "cell": CELL},
    }
    whole = {
        "format_version": 2,
        "requires": ["single_pass", "latent_input"],
        "model_id": MODEL_ID,
        "version": "1",
        "task": "TASK_GENERATION",
        "architecture": "made up",
        "single_pass": single_pass,
        "variants": [{"name": "fp32", "device": "DEVICE_CPU", "passes": [plain, attention]}],
    }
    return copy.deepcopy(whole)  # tests change it


def graph(*, gives_attention: bool) -> onnx.ModelProto:
    """The ONNX graph: each pixel has the class as red, and two numbers of the latent vector, squashed, as green and blue."""
    constants = {
        "colours": np.eye(LATENT, 2, dtype=np.float32),
        "column": np.array([1], np.int64),
        "places": np.array([1, 2], np.int64),
        "shape": np.array([1, SIDE, SIDE, 1], np.int64),
        "byte": np.array(255, np.float32),
        "depth": np.array(CELLS, np.int64),
        "values": np.array([0, 1], np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["latent", "colours"], ["two"]),
        helper.make_node("Sigmoid", ["two"], ["squashed"]),
        helper.make_node("Mul", ["squashed", "byte"], ["bright"]),
        helper.make_node("Cast", ["label"], ["class"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["class", "column"], ["red"]),
        helper.make_node("Concat", ["red", "bright"], ["colour"], axis=1),
        helper.make_node("Unsqueeze", ["colour", "places"], ["pixel"]),
        helper.make_node("Tile", ["pixel", "shape"], ["floats"]),
        helper.make_node("Cast", ["floats"], ["pixels"], to=TensorProto.UINT8),
    ]
    inputs = [
        helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["batch", LATENT]),
        helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
    ]
    outputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])]
    if gives_attention:
        nodes.append(helper.make_node("OneHot", ["query", "depth", "values"], ["attention"], axis=-1))
        inputs.append(helper.make_tensor_value_info("query", TensorProto.INT64, ["batch", 1]))
        outputs.append(helper.make_tensor_value_info("attention", TensorProto.FLOAT, ["batch", 1, CELLS]))
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
