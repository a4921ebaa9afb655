# SPDX-License-Identifier: Apache-2.0
"""The PyTorch module of a Transformer bundle, built from the bundle's own files: sizes from its manifest, weights from its graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from attnserve.v1 import manifest_pb2
from attnserve_export.models.transformer import Transformer, TransformerConfig
from attnserve_export.trained import stored_parameters


def module_of_bundle(folder: Path, manifest: manifest_pb2.Manifest) -> Transformer:
    """The module in evaluation mode; fails where a parameter was not found, or a table of positions is another."""
    found = stored_parameters(folder, manifest)
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


def _num_layers(names: dict[str, np.ndarray], stack: str) -> int:
    return len({name.split(".")[1] for name in names if name.startswith(f"{stack}.")})
