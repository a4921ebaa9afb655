# SPDX-License-Identifier: Apache-2.0
"""The Non-local block and its disentangled form against the equations in loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attnserve_export.models.disentangled_nonlocal import NonLocalBlock
from tests.reference.nonlocal_block import Weights, block
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

CHANNELS, INNER, HEIGHT, WIDTH = 6, 4, 3, 5


def made(*, disentangled: bool) -> NonLocalBlock:
    torch.manual_seed(1)
    found = NonLocalBlock(CHANNELS, INNER, disentangled=disentangled).double()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return found


def listed(layer: nn.Conv1d) -> tuple[list[list[float]], list[float]]:
    bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias
    return layer.weight.squeeze(-1).tolist(), bias.tolist()


def weights_of(module: NonLocalBlock) -> Weights:
    unary = None if module.unary is None else module.unary.weight.flatten().tolist()
    return Weights(*listed(module.query), *listed(module.key), *listed(module.value), unary, *listed(module.output))


def compare(module: NonLocalBlock, x: Tensor, valid: Tensor) -> None:
    with torch.no_grad():
        found, attention = module(x, valid)
    for index in range(len(x)):
        cells = x[index].flatten(1).T
        wanted, pairwise, unary = block(cells.tolist(), valid[index].tolist(), weights_of(module))
        kept = valid[index]
        assert torch.allclose(found[index].flatten(1).T[kept], torch.tensor(wanted, dtype=torch.float64)[kept], atol=1e-10)
        assert torch.allclose(attention.pairwise[index][kept], torch.tensor(pairwise, dtype=torch.float64)[kept], atol=1e-10)
        if attention.unary is not None:
            assert torch.allclose(attention.unary[index], torch.tensor(unary, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize("disentangled", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_the_block_is_the_equations(disentangled: bool, masked: bool) -> None:
    x = torch.randn(2, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    valid = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)
    if masked:
        valid[0, 2:], valid[1, :, 3:] = False, False
    compare(made(disentangled=disentangled), x, valid.flatten(1))


@pytest.mark.parametrize("name", ["query", "key", "value", "unary", "output"])
def test_a_wrong_weight_is_seen(name: str) -> None:
    module, x = made(disentangled=True), torch.randn(1, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64)
    wanted = block(x[0].flatten(1).T.tolist(), [True] * HEIGHT * WIDTH, weights_of(module))[0]
    with torch.no_grad():
        getattr(module, name).weight[0, 1] += 0.5
        found = module(x)[0][0].flatten(1).T
    assert not torch.allclose(found, torch.tensor(wanted, dtype=torch.float64), atol=1e-4)
