# SPDX-License-Identifier: Apache-2.0
"""The space-time Non-local block against its equations, and the network around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attnserve_export.layers.efficientnet import EfficientNetLite0
from attnserve_export.models.nonlocal_video import (
    CHANNELS,
    PAIRWISE,
    MotionTrunk,
    NonlocalBlock,
    NonlocalHead,
    NonlocalVideo,
    NonlocalVideoConfig,
    Pairwise,
    difference_frames,
    grid,
    trunk_weights,
)
from tests.reference import nonlocal_video as reference
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

LAYERS = ("query", "key", "value", "output")


def trained_block(pairwise: Pairwise) -> NonlocalBlock:
    """A block that is no identity any more, in evaluation mode."""
    torch.manual_seed(5)
    block = NonlocalBlock(6, 4, pairwise).double().eval()
    assert block.norm.running_mean is not None and block.norm.running_var is not None
    for tensor in (block.norm.weight.data, block.norm.bias.data, block.norm.running_mean):
        tensor.normal_()
    block.norm.running_var.uniform_(0.5, 2.0)
    return block


def layers_of(block: NonlocalBlock) -> dict[str, reference.Layer]:
    found = {name: getattr(block, name) for name in LAYERS if hasattr(block, name)}
    return {name: (linear.weight.detach().numpy(), linear.bias.detach().numpy()) for name, linear in found.items()}


def score_of(block: NonlocalBlock) -> reference.Array:
    if block.pairwise != "concatenation":
        return np.zeros(0)
    return torch.cat((block.score_query.weight[0], block.score_key.weight[0])).detach().numpy()


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_the_four_functions_are_those_of_the_equations(pairwise: Pairwise) -> None:
    block = trained_block(pairwise)
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    z, weights = block(x)
    norm = block.norm
    scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
    shift = norm.bias.detach().numpy() - norm.running_mean.numpy() * scale
    for index in range(2):
        expected = reference.weights(pairwise, x[index].numpy(), layers_of(block), score_of(block))
        np.testing.assert_allclose(weights[index].detach().numpy(), expected, atol=1e-12)
        refined = reference.block(expected, x[index].numpy(), layers_of(block), scale, shift)
        np.testing.assert_allclose(z[index].detach().numpy(), refined, atol=1e-12)


def test_the_reference_tells_the_functions_apart() -> None:
    block = trained_block("concatenation")
    x = torch.randn(5, 6, dtype=torch.float64).numpy()
    found = [reference.weights(pairwise, x, layers_of(block), score_of(block)) for pairwise in PAIRWISE]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_a_new_block_is_the_identity(pairwise: Pairwise) -> None:
    block = NonlocalBlock(6, 4, pairwise)
    x = torch.randn(3, 9, 6)
    assert torch.equal(block.train()(x)[0], x)
    assert torch.equal(block.eval()(x)[0], x)


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_a_model_begins_as_its_twin(pairwise: Pairwise) -> None:
    features = torch.randn(2, *grid(), CHANNELS)
    logits = []
    for each in (pairwise, "none"):
        torch.manual_seed(3)
        logits.append(NonlocalHead(NonlocalVideoConfig(2, pairwise=each)).eval()(features)[0])
    assert torch.equal(*logits)


def test_a_clip_gives_logits_and_the_attention_of_all_cells() -> None:
    clip = torch.randint(0, 256, (1, 32, 112, 112, 3), dtype=torch.uint8)
    model = NonlocalVideo(NonlocalVideoConfig(2)).eval()
    with torch.no_grad():
        logits, weights = model(clip)
        assert model.trunk(clip).shape == (1, *grid(), CHANNELS)
    cells = int(np.prod(grid()))
    assert grid() == (6, 7, 7)
    assert logits.shape == (1, 2)
    assert weights.shape == (1, cells, cells)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, cells))
    assert not any(parameter.requires_grad for parameter in model.trunk.parameters())


def test_a_clip_without_motion_has_grey_differences() -> None:
    clip = torch.randint(0, 256, (1, 1, 8, 8, 3), dtype=torch.uint8).expand(1, 4, 8, 8, 3)
    assert torch.equal(difference_frames(clip), torch.full((1, 3, 8, 8, 3), 127.0))
    jump = torch.stack((torch.zeros(1, 8, 8, 3), torch.full((1, 8, 8, 3), 255.0)), 1)
    assert difference_frames(jump).max() == 255


def test_the_trunk_is_the_beginning_of_the_whole_one() -> None:
    torch.manual_seed(4)
    whole, trunk = EfficientNetLite0().eval(), MotionTrunk().eval()
    trunk.load_state_dict(trunk_weights(whole.state_dict()))
    clip = torch.randint(0, 256, (1, 7, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        x = torch.relu(whole.stem((difference_frames(clip)[0].permute(0, 3, 1, 2) - 127) / 128)).clamp(max=6)
        for block in whole.blocks[:5]:
            x = block(x)
        features = trunk(clip)[0]  # one step of time, 2 × 2 cells
    means = x[1:].reshape(5, 40, 2, 2, 2, 2).mean((0, 3, 5))
    changes = (x[1:] - x[:-1]).abs().reshape(5, 40, 2, 2, 2, 2).mean((0, 3, 5))
    torch.testing.assert_close(features[0].permute(2, 0, 1), torch.cat((means, changes)))


def test_an_unknown_function_is_refused() -> None:
    with pytest.raises(ValueError, match="pairwise must be one of gaussian"):
        NonlocalVideoConfig(2, pairwise="cosine")  # type: ignore[arg-type]
