# SPDX-License-Identifier: Apache-2.0
"""CBAM's module against its equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attnserve_export.models.cbam import AttentionModule, Cbam, CbamConfig
from tests.reference import cbam
from tests.torch_threads import one_thread  # noqa: F401 - a fixture


@pytest.fixture
def module() -> AttentionModule:
    torch.manual_seed(2)
    return AttentionModule(8, reduction=2, kernel=7).double()


def layer(linear: torch.nn.Linear) -> tuple[cbam.Array, cbam.Array]:
    return linear.weight.detach().numpy(), linear.bias.detach().numpy()


def test_both_gates_are_those_of_the_equations(module: AttentionModule) -> None:
    x = torch.randn(3, 8, 9, 10, dtype=torch.float64)
    refined, attended = module(x)
    for index in range(3):
        channel = cbam.channel_attention(x[index].numpy(), layer(module.channel.squeeze), layer(module.channel.excite))
        np.testing.assert_allclose(attended.channel[index].detach().numpy(), channel, atol=1e-12)
        after = channel[:, None, None] * x[index].numpy()
        conv = module.spatial.conv
        spatial = cbam.spatial_attention(after, conv.weight[0].detach().numpy(), conv.bias.item())
        np.testing.assert_allclose(attended.spatial[index].detach().numpy(), spatial, atol=1e-12)
        np.testing.assert_allclose(refined[index].detach().numpy(), spatial * after, atol=1e-12)


def test_the_reference_sees_a_gate_that_is_left_out(module: AttentionModule) -> None:
    x = torch.randn(1, 8, 9, 10, dtype=torch.float64)
    channel = cbam.channel_attention(x[0].numpy(), layer(module.channel.squeeze), layer(module.channel.excite))
    only_mean = torch.sigmoid(module.channel.excite(torch.relu(module.channel.squeeze(x.mean((2, 3))))))[0]
    assert np.abs(channel - only_mean.detach().numpy()).max() > 1e-3


def test_a_network_has_a_module_in_every_block_and_its_twin_has_none() -> None:
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    logits, attended = Cbam(CbamConfig(10)).eval()(images)
    assert logits.shape == (2, 10)
    assert [tuple(each.channel.shape) for each in attended] == [(2, 16)] * 3 + [(2, 32)] * 3 + [(2, 64)] * 3
    assert [tuple(each.spatial.shape) for each in attended] == [(2, 32, 32)] * 3 + [(2, 16, 16)] * 3 + [(2, 8, 8)] * 3
    twin = Cbam(CbamConfig(10, attention=False))
    assert twin.eval()(images)[1] == []
    convolutions = [module for module in twin.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(convolutions) == 20, "ResNet-20"


def test_twins_of_one_seed_start_from_the_same_other_weights() -> None:
    torch.manual_seed(3)
    ours = Cbam(CbamConfig(10)).state_dict()
    torch.manual_seed(3)
    twin = Cbam(CbamConfig(10, attention=False)).state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in twin.items())
    assert {name for name in ours if ".attention." not in name} == set(twin)


@pytest.mark.parametrize(("sizes", "message"), [({"reduction": 7}, "multiple"), ({"kernel": 4}, "odd")])
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CbamConfig(10, **sizes)
