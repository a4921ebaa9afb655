# SPDX-License-Identifier: Apache-2.0
"""Exports a module and its spec to an ONNX model, by one call of torch.onnx.export with the declared names and axes."""

from __future__ import annotations

import warnings

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from attnserve.v1 import manifest_pb2
from attnserve_export.graphs.spec import GraphSpec

OPSET = 23
TRANSPOSED = ".transposed"
"""Suffix of a parameter's name for its transpose, which a MatMul takes."""
MAX_IR_VERSION = 13
"""The newest IR version that ONNX Runtime 1.31 loads."""

_TORCH_TYPES = {
    manifest_pb2.DATA_TYPE_FLOAT32: torch.float32,
    manifest_pb2.DATA_TYPE_FLOAT16: torch.float16,
    manifest_pb2.DATA_TYPE_INT32: torch.int32,
    manifest_pb2.DATA_TYPE_INT64: torch.int64,
    manifest_pb2.DATA_TYPE_UINT8: torch.uint8,
}
_EXAMPLE_SIZES = {"row": 6, "request": 4, "source": 5, "target": 7, "batch": 2, "height": 80, "width": 96}


class ExportError(Exception):
    """The export failed: wrong tensor names, an IR version that is too new, or a difference beyond the parity tolerance."""


def example_input(tensor: manifest_pb2.Tensor) -> Tensor:
    """Returns a tensor of the declared type; each named axis has its own size, above 1."""
    shape = [int(axis) if axis.isdigit() else _EXAMPLE_SIZES[axis] for axis in tensor.axes]
    dtype = _TORCH_TYPES[tensor.dtype]
    return torch.rand(shape).to(dtype) if dtype.is_floating_point else torch.ones(shape, dtype=dtype)


def export_graph(spec: GraphSpec) -> onnx.ModelProto:
    """Traces a graph with its named axes dynamic.

    Raises:
        ExportError: the graph's inputs or outputs differ from the spec, or its IR version is too new.
    """
    axes = {axis: torch.export.Dim(axis, min=1, max=1 << 16) for axis in _EXAMPLE_SIZES}
    arguments = tuple(None if tensor is None else example_input(tensor) for tensor in spec.inputs)
    dynamic = [
        None if tensor is None else {i: axes[axis] for i, axis in enumerate(tensor.axes) if not axis.isdigit()}
        for tensor in spec.inputs
    ]
    has_varargs = spec.module.forward.__code__.co_flags & 0x04
    num_named = spec.module.forward.__code__.co_argcount - 1
    shapes = (*dynamic[:num_named], tuple(dynamic[num_named:])) if has_varargs else tuple(dynamic)
    names = [tensor.name for tensor in spec.inputs if tensor is not None]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            spec.module.eval(),
            arguments,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=names,
            output_names=[tensor.name for tensor in spec.outputs],
            verbose=False,
            optimize=True,
        )
    if program is None:
        raise ExportError(f"{spec.file}: torch.onnx.export returned no program")
    model = program.model_proto
    _check(spec, model)
    _name_matrices(model, spec.module)
    return model


def _name_matrices(model: onnx.ModelProto, module: nn.Module) -> None:
    """Renames matrices that the exporter transposed and renamed: to their parameter's name and the suffix ``TRANSPOSED``."""
    parameters = {name: value for name, value in module.state_dict(keep_vars=True).items() if value.dim() == 2}
    renamed: dict[str, str] = {}
    for initializer in model.graph.initializer:
        if len(initializer.dims) == 2 and initializer.name not in parameters:
            array = torch.tensor(numpy_helper.to_array(initializer))
            for name, value in parameters.items():
                if value.T.shape == array.shape and torch.equal(value.T, array):
                    renamed[initializer.name] = name + TRANSPOSED
                    initializer.name = renamed[initializer.name]
                    break
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _check(spec: GraphSpec, model: onnx.ModelProto) -> None:
    problems = []
    for kind, tensors, values in (("input", spec.inputs, model.graph.input), ("output", spec.outputs, model.graph.output)):
        declared, found = [tensor.name for tensor in tensors if tensor is not None], [value.name for value in values]
        if declared != found:
            problems.append(f"{kind}s are {found}, declared {declared}")
    if model.ir_version > MAX_IR_VERSION:
        problems.append(f"IR version {model.ir_version} is newer than {MAX_IR_VERSION}")
    if problems:
        raise ExportError(f"{spec.file}: " + "; ".join(problems))
