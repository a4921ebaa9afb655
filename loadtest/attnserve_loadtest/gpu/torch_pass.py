# SPDX-License-Identifier: Apache-2.0
"""A single-pass model in PyTorch, eager, as usual on a GPU: half precision by autocast, the answer made on the device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from attnserve.v1 import manifest_pb2
from attnserve_export.bundles import stored_model
from attnserve_export.registry import ARCHITECTURES
from attnserve_export.trained import trained_in_bundle
from attnserve_server.bundle.loader import load_bundle
from attnserve_server.execution.session import NUMPY_TYPES
from attnserve_server.passes import PassPayload


class TorchPass:
    """The module that a bundle's graph without attention was exported from, in fp32.

    Args:
        folder: of the bundle.
        device: "cuda" or "cpu".
        is_half: whether convolutions and products run in half precision; on the CPU they do not.
    """

    def __init__(self, folder: Path, device: str, *, is_half: bool) -> None:
        trained, labels = trained_in_bundle(folder), load_bundle(folder).manifest.single_pass.labels
        model = stored_model(trained.recipe, trained.weights, len(labels))
        variants = ARCHITECTURES[trained.recipe.architecture].graphs.variants(model, [])
        (fp32,) = (each for each in variants if each.name == "fp32" and each.device == manifest_pb2.DEVICE_CPU)
        plain = next(each for each in fp32.passes if not each.gives_attention)
        self._module, self._inputs = plain.module.to(device), plain.inputs
        self._device, self._is_half = device, is_half and device == "cuda"

    def run(self, payloads: Sequence[PassPayload]) -> list[torch.Tensor]:
        """The outputs of a batch, on the host.

        Args:
            payloads: of one shape; at least one.
        """
        inputs = [None if each is None else self._batch(each, payloads) for each in self._inputs]
        with torch.inference_mode(), torch.autocast(self._device, torch.float16, enabled=self._is_half):
            return [output.cpu() for output in self._module(*inputs)]

    def _batch(self, declared: manifest_pb2.Tensor, payloads: Sequence[PassPayload]) -> torch.Tensor:
        tensors = [payload.inputs[declared.name] for payload in payloads]
        arrays = [np.frombuffer(each.data, NUMPY_TYPES[declared.dtype]).reshape(each.shape) for each in tensors]
        return torch.from_numpy(np.stack(arrays)).to(self._device)
