# SPDX-License-Identifier: Apache-2.0
"""A small single-pass model with a whole bundle: a convolution gives the class of each pixel, and pooled features give attention."""

from __future__ import annotations

import copy
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf import json_format
from onnx import TensorProto, helper, numpy_helper

from attnserve.v1 import manifest_pb2
from attnserve_server.engine.front.served_models import ServedModel
from attnserve_server.kinds import SINGLE_PASS
from attnserve_server.passes import PassPayload, PassTensor
from tests.fakes.bundles import FLOAT32, INT64, tensor
from tests.fakes.models import make_bundle

UINT8 = "DATA_TYPE_UINT8"
MODEL_ID = "small-passes"
CELL, CLASSES, QUERIES = 4, 3, 2
SIZES = ((16, 8), (8, 16), (8, 8))
"""Width and height."""
PLAIN, ATTENTION = "pass.onnx", "pass_attention.onnx"
OUTPUTS = [tensor("classes", UINT8, "batch", "height", "width"), tensor("confidence", UINT8, "batch", "height", "width")]
MAPS = [tensor("unary", FLOAT32, "batch", "cell"), tensor("pairwise", FLOAT32, "batch", str(QUERIES), "cell")]
_INPUTS = [tensor("image", UINT8, "batch", "height", "width", "3"), tensor("size", INT64, "batch", "2")]
_QUERY = tensor("query", INT64, "batch", str(QUERIES))
_TYPES = {UINT8: TensorProto.UINT8, INT64: TensorProto.INT64, FLOAT32: TensorProto.FLOAT}


def pass_manifest(max_batch: int = 4, model_id: str = MODEL_ID) -> dict[str, Any]:
    """A sound manifest as JSON, without its files."""
    plain = {"graph": {"file": PLAIN, "inputs": [*_INPUTS], "outputs": [*OUTPUTS]}, "max_batch": max_batch}
    attention = {
        "graph": {"file": ATTENTION, "inputs": [*_INPUTS, _QUERY], "outputs": [*OUTPUTS, *MAPS]},
        "gives_attention": True,
        "max_batch": max_batch,
    }
    single_pass = {
        "picture": {"sizes": [{"width": w, "height": h} for w, h in SIZES], "fit": "FIT_PAD", "cell": CELL},
        "labels": [{"name": name, "colour": 1000 * index} for index, name in enumerate(("sky", "road", "tree"))],
        "attention": [
            {"output": "unary", "role": "ATTENTION_ROLE_UNARY", "block": "only"},
            {"output": "pairwise", "role": "ATTENTION_ROLE_PAIRWISE", "block": "only"},
        ],
    }
    return {
        "format_version": 2,
        "requires": ["single_pass"],
        "model_id": model_id,
        "version": "1",
        "task": "TASK_SEGMENTATION",
        "architecture": "made up",
        "single_pass": single_pass,
        "variants": [{"name": "fp32", "device": "DEVICE_CPU", "passes": copy.deepcopy([plain, attention])}],
    }


def pass_model(max_batch: int = 4, model_id: str = MODEL_ID) -> ServedModel:
    """A served model whose bundle is only a manifest."""
    manifest = json_format.ParseDict(pass_manifest(max_batch, model_id), manifest_pb2.Manifest())
    return ServedModel(make_bundle(manifest), SINGLE_PASS, None, 8, 0)


def graph(declared: Mapping[str, Any]) -> onnx.ModelProto:
    """The ONNX graph of a declared one: it computes what its outputs need."""
    rng = np.random.default_rng(0)
    constants = {
        "kernel": rng.normal(0, 0.02, (CLASSES, 3, 3, 3)).astype(np.float32),
        "scale": np.array(255, np.float32),
        "one": np.array([1], np.int64),
        "last": np.array([-1], np.int64),
        "flat": np.array([0, CLASSES, -1], np.int64),
        "whole": np.array([0], np.int64),
    }
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", ["image"], "floats", {"to": TensorProto.FLOAT}),
        ("Transpose", ["floats"], "planes", {"perm": [0, 3, 1, 2]}),
        ("Conv", ["planes", "kernel"], "logits", {"pads": [1, 1, 1, 1]}),
        ("ArgMax", ["logits"], "class_index", {"axis": 1, "keepdims": 0}),
        ("Cast", ["class_index"], "classes", {"to": TensorProto.UINT8}),
        ("Softmax", ["logits"], "probabilities", {"axis": 1}),
        ("ReduceMax", ["probabilities", "one"], "highest", {"keepdims": 0}),
        ("Mul", ["highest", "scale"], "scaled", {}),
        ("Cast", ["scaled"], "confidence", {"to": TensorProto.UINT8}),
    ]
    if any(each["name"] == "unary" for each in declared["outputs"]):
        steps += [
            ("AveragePool", ["logits"], "pooled", {"kernel_shape": [CELL, CELL], "strides": [CELL, CELL]}),
            ("Reshape", ["pooled", "flat"], "cells", {}),
            ("ReduceSum", ["cells", "one"], "score", {"keepdims": 0}),
            ("Softmax", ["score"], "unary", {"axis": -1}),
            ("Transpose", ["cells"], "keys", {"perm": [0, 2, 1]}),
            ("Unsqueeze", ["query", "last"], "places", {}),
            ("GatherND", ["keys", "places"], "asked", {"batch_dims": 1}),
            ("MatMul", ["asked", "cells"], "products", {}),
            ("Softmax", ["products"], "pairwise", {"axis": -1}),
        ]
    nodes = [helper.make_node(op, inputs, [output], name=output, **attributes) for op, inputs, output, attributes in steps]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "pass", values(declared["inputs"]), values(declared["outputs"]), weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def values(tensors: Sequence[Mapping[str, Any]]) -> list[onnx.ValueInfoProto]:
    """The tensors of a declared graph as ONNX has them."""
    sizes = ([int(axis) if axis.isdigit() else axis for axis in each["axes"]] for each in tensors)
    return [
        helper.make_tensor_value_info(each["name"], _TYPES[each["dtype"]], size) for each, size in zip(tensors, sizes, strict=True)
    ]


def write_bundle(models: Path, manifest: dict[str, Any] | None = None, golden: manifest_pb2.GoldenPasses | None = None) -> Path:
    """Writes the manifest, its graphs and its golden answers into a model repository; returns the bundle's folder."""
    manifest = pass_manifest() if manifest is None else manifest
    folder = models / manifest["model_id"] / manifest["version"]
    folder.mkdir(parents=True)
    for variant in manifest["variants"]:
        for each in variant["passes"]:
            onnx.save(graph(each["graph"]), folder / each["graph"]["file"])
    if golden is not None:
        (folder / "golden.json").write_text(json_format.MessageToJson(golden), encoding="utf-8")
        manifest["golden_file"] = "golden.json"
    seal(folder, manifest)
    return folder


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest with a list of the files that are there."""
    files = sorted(path for path in folder.iterdir() if path.name != "manifest.json")
    listed = [
        {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "num_bytes": path.stat().st_size}
        for path in files
    ]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": listed}), encoding="utf-8")


def inputs_of(seed: int, width: int = 16, height: int = 8) -> dict[str, npt.NDArray[Any]]:
    """Random inputs of one request, for both graphs."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (height, width, 3), np.uint8),
        "size": np.array([height, width], np.int64),
        "query": rng.integers(0, width * height // CELL**2, QUERIES),
    }


def payload(seed: int, width: int = 16, height: int = 8, *, wants_attention: bool = False) -> PassPayload:
    """A request."""
    tensors = {name: PassTensor(value.shape, value.tobytes()) for name, value in inputs_of(seed, width, height).items()}
    if not wants_attention:
        del tensors["query"]
    return PassPayload(tensors, wants_attention, width * height // CELL**2)


def golden_tensor(name: str, value: npt.NDArray[Any]) -> manifest_pb2.GoldenTensor:
    """A tensor of a golden answer."""
    return manifest_pb2.GoldenTensor(name=name, shape=value.shape, data=zlib.compress(value.tobytes()))
