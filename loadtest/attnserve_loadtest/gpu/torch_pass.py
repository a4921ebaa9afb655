# SPDX-License-Identifier: Apache-2.0
"""A single-pass model in PyTorch, eager, as usual on a GPU: half precision by autocast, the answer made on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from attnserve_export.bundles import stored_model
from attnserve_export.trained import trained_in_bundle
from attnserve_server.bundle.loader import load_bundle


class TorchPass:
    """The module that a bundle was made from.

    Args:
        folder: of the bundle.
        device: "cuda" or "cpu".
        is_half: whether convolutions and products run in half precision; on the CPU they do not.
    """

    def __init__(self, folder: Path, device: str, *, is_half: bool) -> None:
        trained, labels = trained_in_bundle(folder), load_bundle(folder).manifest.single_pass.labels
        model: Any = stored_model(trained.recipe, trained.weights, len(labels))
        self._model, self._device, self._is_half = model.to(device), device, is_half and device == "cuda"

    def run(self, images: npt.NDArray[Any]) -> list[torch.Tensor]:
        """The most probable class and its probability in units of 1/255 of each pixel or image, on the host.

        Args:
            images: uint8 (B, H, W, 3).
        """
        with torch.inference_mode(), torch.autocast(self._device, torch.float16, enabled=self._is_half):
            logits = self._model(torch.from_numpy(images).to(self._device))[0]
            confidence, classes = torch.softmax(logits.float(), 1).max(1)
            return [classes.to(torch.uint8).cpu(), (255 * confidence).round().to(torch.uint8).cpu()]
