# SPDX-License-Identifier: Apache-2.0
"""Copies of bundles with other graphs in their CUDA variants: for rehearsals, and with wrong weights. The CPU variants stay."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from google.protobuf import json_format
from onnx import TensorProto, helper, numpy_helper

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import load_bundle
from attnserve_server.execution.memory import Sizes

Change = Callable[[Path, manifest_pb2.Graph], onnx.ModelProto | None]
"""Takes a bundle's folder and a declared graph; returns its replacement, or None to keep it."""
NEEDS_CUDNN = frozenset({"GRU", "LSTM", "Conv", "ReduceMean", "ReduceMax", "ReduceSum", "GlobalAveragePool"})
"""Operators of our encoders that the CUDA provider gives to cuDNN, which the stand-ins do not have."""
_TYPES = {
    manifest_pb2.DATA_TYPE_FLOAT32: TensorProto.FLOAT,
    manifest_pb2.DATA_TYPE_FLOAT16: TensorProto.FLOAT16,
    manifest_pb2.DATA_TYPE_INT32: TensorProto.INT32,
    manifest_pb2.DATA_TYPE_INT64: TensorProto.INT64,
    manifest_pb2.DATA_TYPE_UINT8: TensorProto.UINT8,
}


def copy_with_cuda_graphs(bundle: Path, models: Path, change: Change) -> Path:
    """See :func:`copy_with_graphs`: of the CUDA variants."""
    return copy_with_graphs(bundle, models, change, manifest_pb2.DEVICE_CUDA)


def copy_with_graphs(bundle: Path, models: Path, change: Change, device: manifest_pb2.Device) -> Path:
    """Copies a bundle to ``models/<id>/<version>`` and changes the graphs of a device's variants, which become files of their own."""
    folder = models / bundle.parent.name / bundle.name
    shutil.copytree(bundle, folder)
    manifest = json_format.Parse((folder / "manifest.json").read_text(), manifest_pb2.Manifest())
    for variant in manifest.variants:
        if variant.device == device:
            for graph in _graphs(variant):
                if (changed := change(folder, graph)) is not None:
                    graph.file = f"changed_{graph.file}"
                    onnx.save(changed, folder / graph.file)
                    content = (folder / graph.file).read_bytes()
                    manifest.files.add(name=graph.file, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    (folder / "manifest.json").write_text(json_format.MessageToJson(manifest, preserving_proto_field_name=True))
    return folder


def _graphs(variant: manifest_pb2.Variant) -> list[manifest_pb2.Graph]:
    """The graphs of a variant, one for each that a single-pass model has, or those that decode step by step."""
    if variant.passes:
        return [each.graph for each in variant.passes]
    return [variant.encode, *(step.graph for step in variant.steps)]


def without_cudnn(folder: Path, graph: manifest_pb2.Graph) -> onnx.ModelProto | None:
    """Replaces a graph that needs cuDNN by one with the same inputs and outputs, which broadcasts a constant to their shapes."""
    model = onnx.load(folder / graph.file, load_external_data=False)
    if not NEEDS_CUDNN & {node.op_type for node in model.graph.node}:
        return None
    if any(tensor.axes[0] == "batch" for tensor in graph.inputs):
        return _broadcast_pass(folder, graph)
    sizes = Sizes(load_bundle(folder, "cuda"))
    nodes = [helper.make_node("Shape", [graph.inputs[-1].name], ["count"], start=0, end=1)]
    constants, outputs = [], []
    for tensor in graph.outputs:
        name, shape, dtype = tensor.name, sizes.shape(tensor), _TYPES[tensor.dtype]
        constants.append(helper.make_tensor(f"{name}.inner", TensorProto.INT64, [len(shape)], shape))
        constants.append(helper.make_tensor(f"{name}.value", dtype, [1], [0.5]))
        nodes.append(helper.make_node("Concat", ["count", f"{name}.inner"], [f"{name}.shape"], axis=0))
        nodes.append(helper.make_node("Expand", [f"{name}.value", f"{name}.shape"], [name]))
        outputs.append(helper.make_tensor_value_info(name, dtype, ["request", *shape]))
    inputs = [
        helper.make_tensor_value_info(
            tensor.name, _TYPES[tensor.dtype], [int(axis) if axis.isdigit() else axis for axis in tensor.axes]
        )
        for tensor in graph.inputs
    ]
    made = helper.make_model(
        helper.make_graph(nodes, "encode", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 21)]
    )
    made.ir_version = 10
    return made


def _broadcast_pass(folder: Path, graph: manifest_pb2.Graph) -> onnx.ModelProto:
    """The same for a graph of a single-pass model: a named axis of an output is one of the image, or its number of cells."""
    nodes = [helper.make_node("Shape", [graph.inputs[0].name], ["batch"], start=0, end=1)]
    constants, named = list[onnx.TensorProto](), {"batch": "batch", "height": "height", "width": "width", "cell": "cell.count"}
    if any(tensor.name == "image" for tensor in graph.inputs):
        cell = json.loads((folder / "manifest.json").read_text())["single_pass"]["picture"].get("cell", 1)
        constants += [
            helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in (("cell", cell), ("less", cell - 1))
        ]
        nodes += _cell_count()
    for tensor in graph.outputs:
        axes = [named.get(axis, f"axis.{axis}") for axis in tensor.axes]
        constants.append(helper.make_tensor(f"{tensor.name}.value", _TYPES[tensor.dtype], [1], [0]))
        nodes.append(helper.make_node("Concat", axes, [f"{tensor.name}.shape"], axis=0))
        nodes.append(helper.make_node("Expand", [f"{tensor.name}.value", f"{tensor.name}.shape"], [tensor.name]))
    numbers = {axis for tensor in graph.outputs for axis in tensor.axes if axis.isdigit()}
    constants += [helper.make_tensor(f"axis.{axis}", TensorProto.INT64, [1], [int(axis)]) for axis in sorted(numbers)]
    inputs, outputs = (
        [
            helper.make_tensor_value_info(
                each.name, _TYPES[each.dtype], [int(axis) if axis.isdigit() else axis for axis in each.axes]
            )
            for each in tensors
        ]
        for tensors in (graph.inputs, graph.outputs)
    )
    made = helper.make_graph(nodes, "pass", inputs, outputs, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _cell_count() -> list[onnx.NodeProto]:
    """Nodes that compute height and width of the image and the number of its cells, from the constants "cell" and "less"."""
    nodes = [
        helper.make_node("Shape", ["image"], ["height"], start=1, end=2),
        helper.make_node("Shape", ["image"], ["width"], start=2, end=3),
    ]
    for axis in ("height", "width"):
        nodes.append(helper.make_node("Add", [axis, "less"], [f"{axis}.more"]))
        nodes.append(helper.make_node("Div", [f"{axis}.more", "cell"], [f"{axis}.cells"]))
    return [*nodes, helper.make_node("Mul", ["height.cells", "width.cells"], ["cell.count"])]


def with_wrong_weight(name: str) -> Change:
    """In every graph that has it, the sign of the named weight is wrong."""

    def change(folder: Path, graph: manifest_pb2.Graph) -> onnx.ModelProto | None:
        model = onnx.load(folder / graph.file, load_external_data=False)
        found = next((each for each in model.graph.initializer if each.name == name), None)
        if found is None:
            return None
        wrong = -numpy_helper.to_array(found, base_dir=str(folder))
        assert np.any(wrong)
        found.CopyFrom(numpy_helper.from_array(wrong, name))
        return model

    return change
