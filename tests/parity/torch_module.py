# SPDX-License-Identifier: Apache-2.0
"""The PyTorch module of a Transformer bundle, built from the bundle's own files: sizes from its manifest, weights from its graphs.

What stands in a graph under the parameter's name is taken by that name. A matrix that was transposed for a MatMul has lost its
name; the bias that is added to the product has kept it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from attnserve.v1 import manifest_pb2
from attnserve_export.models.transformer import Transformer, TransformerConfig

PREFIX = "model."
Array = np.ndarray[Any, np.dtype[Any]]


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    """Initializers under the names that the graph's nodes use: those that are stored in 16 bits stand behind a Cast."""
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    casts = {
        node.output[0]: stored[node.input[0]] for node in model.graph.node if node.op_type == "Cast" and node.input[0] in stored
    }
    return stored | {name: value.astype(np.float32) for name, value in casts.items()}


def parameters(model: onnx.ModelProto) -> dict[str, Array]:
    """The parameters that a graph holds, by their names in the module."""
    constants = initializers(model)
    found = {
        name.removeprefix(PREFIX): value for name, value in constants.items() if name.startswith(PREFIX) and ".half" not in name
    }
    products = {node.output[0]: constants[node.input[1]] for node in model.graph.node if _is_linear(node, constants)}
    for node in model.graph.node:
        if node.op_type == "Add":
            matrices = [products[name] for name in node.input if name in products]
            biases = [name for name in node.input if name.startswith(PREFIX) and name.endswith(".bias")]
            if matrices and biases:
                found[biases[0].removeprefix(PREFIX).removesuffix("bias") + "weight"] = matrices[0].T
    return found


def module_of_bundle(folder: Path, manifest: manifest_pb2.Manifest) -> Transformer:
    """The module in evaluation mode; fails where a parameter was not found, or a table of positions is another."""
    variant = next(each for each in manifest.variants if each.device == manifest_pb2.DEVICE_CPU)
    graphs = [onnx.load(folder / name) for name in (variant.encode.file, variant.steps[0].graph.file)]
    found = {name: value for graph in graphs for name, value in parameters(graph).items()}
    positions = found.pop("positions")
    vocab_size, d_model = found["embedding.weight"].shape
    model = Transformer(
        TransformerConfig(
            vocab_size,
            d_model=d_model,
            d_ff=len(found["decoder.0.feed_forward.inner.bias"]),
            num_heads=manifest.attention.num_heads,
            num_encoder_layers=_num_layers(found, "encoder"),
            num_decoder_layers=_num_layers(found, "decoder"),
            max_positions=len(positions),
        )
    )
    model.load_state_dict({name: torch.tensor(value) for name, value in found.items()})
    np.testing.assert_array_equal(model.positions.numpy(), positions)
    return model.eval().requires_grad_(False)


def _is_linear(node: onnx.NodeProto, constants: dict[str, Array]) -> bool:
    return node.op_type == "MatMul" and node.input[1] in constants


def _num_layers(names: dict[str, Array], stack: str) -> int:
    return len({name.split(".")[1] for name in names if name.startswith(f"{stack}.")})
