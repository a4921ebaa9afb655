# SPDX-License-Identifier: Apache-2.0
"""The PyTorch module of a Transformer bundle, rebuilt from the very weights that the server runs.

Parameters keep their names in the graphs, but the matrices of linear layers, which the exporter transposes and renames: such a
matrix is named after the bias that is added to its product.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from attnserve_export.bundle_writer import read_manifest
from attnserve_export.models.transformer import Transformer, TransformerConfig
from onnx import numpy_helper


def transformer_from_bundle(folder: Path) -> Transformer:
    """The module in evaluation mode, every parameter set.

    Raises:
        RuntimeError: a parameter was not found in the graphs.
    """
    manifest = read_manifest(folder)
    weights: dict[str, torch.Tensor] = {}
    for file in (manifest.variants[0].encode.file, manifest.variants[0].steps[0].graph.file):
        weights |= _named_weights(onnx.load(folder / file))
    layers = [{int(name.split(".")[1]) for name in weights if name.startswith(stack)} for stack in ("encoder.", "decoder.")]
    config = TransformerConfig(
        vocab_size=manifest.vocabulary.size,
        d_model=weights["embedding.weight"].shape[1],
        d_ff=weights["encoder.0.feed_forward.inner.bias"].shape[0],
        num_heads=int(manifest.states[0].axes[1]),
        num_encoder_layers=len(layers[0]),
        num_decoder_layers=len(layers[1]),
        max_positions=manifest.limits.max_target_tokens + 1,
    )
    model = Transformer(config)
    model.load_state_dict(weights)
    return model.eval()


def _named_weights(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    values = {initializer.name: numpy_helper.to_array(initializer) for initializer in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]]
    found = {name.removeprefix("model."): value for name, value in values.items() if name.startswith("model.")}
    products = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    for node in model.graph.node:
        if node.op_type == "Add":
            product = next((name for name in node.input if name in products), None)
            bias = next((name for name in node.input if name.endswith(".bias")), None)
            if product and bias:
                found[bias.removeprefix("model.").removesuffix("bias") + "weight"] = values[products[product]].T
    return {
        name: torch.from_numpy(value.copy()).float()
        for name, value in found.items()
        if not name.endswith(".half") and name != "positions"
    }
