# SPDX-License-Identifier: Apache-2.0
"""SAGAN's equations against loops in float64, and its spectral norm against the largest singular value."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attnserve_export.layers.resampled import convolve_then_halve, double_then_convolve
from attnserve_export.layers.spectral import SpectralNorm, normalised
from attnserve_export.models.sagan import (
    ConditionalBatchNorm,
    Discriminator,
    Generator,
    SaganConfig,
    SelfAttention,
    ShippedGenerator,
    average_into,
    fix_statistics,
)
from attnserve_export.training.generation.trainer import hinge_losses
from tests.reference import self_attention as reference
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

SMALL = SaganConfig(3, latent=8, width=8, reduction=4)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("give_attention", [True, False])
def test_self_attention_is_that_of_the_equations(give_attention: bool) -> None:
    layer = SelfAttention(8, 4, spectral=False).double()
    with torch.no_grad():
        layer.gamma.fill_(0.7)
        for seed, conv in enumerate((layer.key, layer.query, layer.value, layer.output)):
            conv.weight.copy_(_draw(*conv.weight.shape, seed=seed))
    x = _draw(2, 8, 3, 4, seed=9)
    found, attention = layer(x, give_attention)
    matrices = [conv.weight.flatten(1).tolist() for conv in (layer.key, layer.query, layer.value, layer.output)]
    for index in range(2):
        cells = x[index].flatten(1).T.tolist()
        y, beta = reference.self_attention(cells, *matrices, 0.7)  # type: ignore[arg-type]
        torch.testing.assert_close(found[index].flatten(1).T, torch.tensor(y, dtype=torch.float64))
        if give_attention:
            torch.testing.assert_close(attention[index], torch.tensor(beta, dtype=torch.float64))
    assert (attention is not None) == give_attention


def test_self_attention_changes_nothing_at_first() -> None:
    layer, x = SelfAttention(8, 4, spectral=True), torch.randn(2, 8, 4, 4)
    assert torch.equal(layer(x)[0], x)


def test_conditional_batch_norm_is_that_of_the_equation() -> None:
    norm = ConditionalBatchNorm(3, 4).double()
    with torch.no_grad():
        norm.scale.weight.copy_(_draw(3, 4, seed=1))
        norm.shift.weight.copy_(_draw(3, 4, seed=2))
    x, label = _draw(3, 4, 2, 3), torch.tensor([2, 0, 2])
    scales, shifts = norm.scale.weight[label].tolist(), norm.shift.weight[label].tolist()
    expected = reference.conditional_norm(x.flatten(2).tolist(), scales, shifts, norm.norm.eps)
    torch.testing.assert_close(norm(x, label).flatten(2), torch.tensor(expected, dtype=torch.float64))


def test_hinge_losses_are_those_of_the_equation() -> None:
    real, fake = _draw(9) * 2, _draw(9, seed=1) * 2
    expected = reference.hinge_losses(real.tolist(), fake.tolist())
    found = hinge_losses(real, fake)
    assert [float(each) for each in found] == pytest.approx(expected)


@pytest.mark.parametrize("size", [(4, 6), (2, 2)])
def test_convolution_and_halving_as_one_operation_give_the_same_values(size: tuple[int, int]) -> None:
    x, weight, bias = _draw(1, 2, *size), _draw(3, 2, 3, 3, seed=1), _draw(3, seed=2)
    expected = reference.halved(reference.convolution(x[0].tolist(), weight.tolist(), bias.tolist()))
    torch.testing.assert_close(convolve_then_halve(x, weight, bias)[0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("size", [(3, 4), (1, 1)])
def test_doubling_and_convolution_as_one_operation_give_the_same_values(size: tuple[int, int]) -> None:
    x, weight, bias = _draw(1, 2, *size), _draw(3, 2, 3, 3, seed=1), _draw(3, seed=2)
    expected = reference.convolution(reference.doubled(x[0].tolist()), weight.tolist(), bias.tolist())
    torch.testing.assert_close(double_then_convolve(x, weight, bias)[0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("kind", "sizes"), [(nn.Conv2d, (6, 5, 3)), (nn.Linear, (12, 7)), (nn.Embedding, (10, 16))])
def test_a_normalised_weight_has_a_largest_singular_value_of_one(
    kind: type[nn.Conv2d | nn.Linear | nn.Embedding], sizes: tuple[int, ...]
) -> None:
    layer = kind(*sizes)
    with torch.no_grad():
        layer.weight.mul_(7)
    before = layer.weight.detach().flatten(1)
    changed = normalised(layer)  # type: ignore[type-var]
    changed.train()
    for _ in range(1000):  # of two values that differ by 1 %, the second is then down to 0.99^2000
        weight = changed.weight
    expected = before / torch.linalg.svdvals(before)[0]
    torch.testing.assert_close(weight.flatten(1), expected, rtol=1e-3, atol=1e-4)


def test_the_power_iteration_steps_in_training_mode_alone() -> None:
    norm = SpectralNorm(torch.randn(8, 9))
    other = torch.randn(8, 9)
    left = norm.left.clone()
    norm.eval()(other)
    assert torch.equal(norm.left, left)
    norm.train()(other)
    assert not torch.equal(norm.left, left)


def test_the_gradient_of_a_normalised_weight_is_that_of_the_quotient() -> None:
    weight = _draw(4, 5).requires_grad_()
    norm = SpectralNorm(weight).double().eval()
    for _ in range(200):
        norm.train()(weight)
    (norm.eval()(weight) * _draw(4, 5, seed=1)).sum().backward()
    other = weight.detach().clone().requires_grad_()
    (other / torch.linalg.svdvals(other)[0] * _draw(4, 5, seed=1)).sum().backward()
    torch.testing.assert_close(weight.grad, other.grad)


def test_every_weight_of_both_networks_is_normalised() -> None:
    torch.manual_seed(0)
    for network in (Generator(SMALL), Discriminator(SMALL)):
        layers = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
        assert len(layers) > 10
        for layer in layers:
            for _ in range(60):  # each use in training mode is one step of the power iteration
                weight = layer.weight.detach()
            assert float(torch.linalg.svdvals(weight.flatten(1))[0]) == pytest.approx(1, abs=0.01)


def test_the_average_of_one_generator_draws_what_it_draws() -> None:
    torch.manual_seed(0)
    generator, average = Generator(SMALL), Generator(SMALL, spectral=False)
    average_into(average, generator, 0.0)
    latent, label = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
    generator.eval()
    torch.testing.assert_close(average.eval()(latent, label)[0], generator(latent, label)[0])


def test_the_average_moves_by_its_decay() -> None:
    generator, average = Generator(SMALL), Generator(SMALL, spectral=False)
    before = average.output.weight.detach().clone()
    average_into(average, generator, 0.9)
    expected = 0.9 * before + 0.1 * generator.eval().output.weight
    torch.testing.assert_close(average.output.weight, expected)


def _shipped(config: SaganConfig = SMALL) -> ShippedGenerator:
    torch.manual_seed(1)
    average = Generator(config, spectral=False)
    if average.attention is not None:
        nn.init.constant_(average.attention.gamma, 0.5)
    fix_statistics(average, batches=4, batch=16, seed=0)
    return ShippedGenerator(average)


def test_an_image_does_not_depend_on_its_batch() -> None:
    shipped, latent = _shipped(), torch.randn(6, 8)
    label, position = torch.arange(6) % 3, torch.arange(6) * 40
    pixels, attention = shipped(latent, label, position)
    for index in range(6):
        alone = slice(index, index + 1)
        pixel, seen = shipped(latent[alone], label[alone], position[alone])
        assert int((pixel.int() - pixels[alone].int()).abs().max()) <= 1
        torch.testing.assert_close(seen, attention[alone])
    assert pixels.shape == (6, 32, 32, 3) and pixels.dtype == torch.uint8


def test_an_image_depends_on_its_batch_unless_the_statistics_are_fixed() -> None:
    shipped, latent = _shipped(), torch.randn(6, 8)
    shipped.generator.train()
    label = torch.zeros(6, dtype=torch.int64)
    assert not torch.allclose(shipped.generator(latent, label)[0][:3], shipped.generator(latent[:3], label[:3])[0], atol=1e-3)


def test_a_positions_attention_is_its_row() -> None:
    shipped, latent, label = _shipped(), torch.randn(2, 8), torch.tensor([0, 1])
    _, whole = shipped.generator(latent, label, give_attention=True)
    _, seen = shipped(latent, label, torch.tensor([5, 255]))
    torch.testing.assert_close(seen.flatten(1), torch.stack((whole[0, 5], whole[1, 255])))
    torch.testing.assert_close(seen.sum((1, 2)), torch.ones(2))


def test_the_twin_has_no_attention_to_give() -> None:
    config = SaganConfig(3, latent=8, width=8, reduction=4, attention=False)
    _, seen = _shipped(config)(torch.randn(2, 8), torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert not seen.any()
    assert not [name for name, _ in Discriminator(config).named_parameters() if "attention" in name]


def test_a_width_that_cannot_be_reduced_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of reduction"):
        SaganConfig(10, width=6, reduction=8)


def test_twins_of_one_seed_start_from_the_same_other_weights() -> None:
    for network in (Generator, Discriminator):
        torch.manual_seed(3)
        ours = network(SMALL).state_dict()
        torch.manual_seed(3)
        twin = network(replace(SMALL, attention=False)).state_dict()
        assert all(torch.equal(value, ours[name]) for name, value in twin.items()), network
        assert {name for name in ours if not name.startswith("attention.")} == set(twin)
