# SPDX-License-Identifier: Apache-2.0
"""The served form of SAGAN's generator as one ONNX graph: the values of PyTorch, at any number of images, within its bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from attnserve_export.models.sagan import Generator, SaganConfig, ShippedGenerator, fix_statistics
from attnserve_export.recipe import GenerationRecipe, load_recipe
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

NAMES = ("latent", "label", "position")
MIB = 1 << 20


def _inputs(count: int, config: SaganConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    latent = torch.randn(count, config.latent, generator=torch.Generator().manual_seed(count))
    return latent, torch.arange(count) % config.num_classes, torch.arange(count) * 37 % 256


@pytest.fixture(scope="module")
def shipped() -> ShippedGenerator:
    torch.manual_seed(0)
    average = Generator(SaganConfig(3, latent=8, width=8, reduction=4), spectral=False)
    assert average.attention is not None
    nn.init.constant_(average.attention.gamma, 0.5)
    fix_statistics(average, batches=2, batch=12, seed=0)
    return ShippedGenerator(average).eval()


@pytest.fixture(scope="module")
def session(shipped: ShippedGenerator, tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    path: Path = tmp_path_factory.mktemp("graph") / "generator.onnx"
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    torch.onnx.export(
        shipped,
        _inputs(3, shipped.generator.config),
        path,
        dynamic_shapes=(batch, batch, batch),
        input_names=list(NAMES),
        output_names=["image", "attention"],
        dynamo=True,
        verbose=False,
    )
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("count", [1, 5])
def test_the_graph_gives_the_images_and_the_attention_of_pytorch(
    shipped: ShippedGenerator, session: onnxruntime.InferenceSession, count: int
) -> None:
    inputs = _inputs(count, shipped.generator.config)
    image, attention = session.run(None, {name: value.numpy() for name, value in zip(NAMES, inputs, strict=True)})
    with torch.no_grad():
        expected, seen = shipped(*inputs)
    assert image.dtype == np.uint8 and np.abs(image.astype(int) - expected.numpy()).max() <= 1
    np.testing.assert_allclose(attention, seen.numpy(), atol=1e-5)


def test_the_weights_of_the_recipe_fit_into_two_mebibytes_at_16_bits() -> None:
    recipe = load_recipe("sagan-cifar10")
    assert isinstance(recipe, GenerationRecipe)
    average = Generator(SaganConfig(10, **recipe.model), spectral=False)
    assert 2 * sum(each.numel() for each in average.state_dict().values()) < 1.8 * MIB
