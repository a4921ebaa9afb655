# SPDX-License-Identifier: Apache-2.0
"""Disentangled Non-local: whitening, twins, padding, attention on request, and the graph that ONNX Runtime runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from attnserve_export.models.disentangled_nonlocal import (
    DisentangledNonLocal,
    DisentangledNonLocalConfig,
    NonLocalBlock,
    centred,
    clamped,
    pairwise_weights,
)
from tests.photos import FOLDER
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

NUM_CLASSES = 5


def small(block: str = "dnl") -> DisentangledNonLocal:
    """A model with the trunk of ImageNet, and a block that is not the identity."""
    torch.manual_seed(0)
    config = DisentangledNonLocalConfig(NUM_CLASSES, block, width=24, inner=12, decoder=(16, 16))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    model = DisentangledNonLocal(config)
    model.load_imagenet()
    if model.block is not None:
        nn.init.normal_(model.block.output.weight, std=0.3)
    return model.eval()


def photo(width: int, height: int, name: str = "chelsea") -> Tensor:
    picture = Image.open(FOLDER / f"{name}.jpg").convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(picture).copy())[None]


def padded(image: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """The picture in the upper left corner of a grey one, and the mask."""
    whole = torch.full((1, height, width, 3), 127, dtype=torch.uint8)
    whole[:, : image.shape[1], : image.shape[2]] = image
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, : image.shape[1], : image.shape[2]] = True
    return whole, mask


@pytest.mark.parametrize("masked", [True, False])
def test_a_vector_added_to_all_queries_or_keys_does_not_change_the_whitened_term(masked: bool) -> None:
    torch.manual_seed(0)
    queries, keys, constant = (torch.randn(2, length, 8, dtype=torch.float64) for length in (20, 20, 1))
    valid = torch.arange(20).expand(2, 20) < torch.tensor([[13], [20]]) if masked else None
    before = pairwise_weights(queries, keys, valid, whitened=True)
    assert torch.allclose(before.sum(-1), torch.ones(2, 20, dtype=torch.float64))
    for changed in ((queries + constant, keys), (queries, keys + constant), (queries + constant, keys - 3 * constant)):
        assert torch.allclose(pairwise_weights(*changed, valid, whitened=True), before, atol=1e-12)
    plain = pairwise_weights(queries, keys, valid, whitened=False)
    assert not torch.allclose(pairwise_weights(queries + constant, keys, valid, whitened=False), plain, atol=1e-3)


def test_padding_has_no_weight_and_is_not_in_the_means() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(1, 9, 4), torch.randn(1, 9, 4)
    valid = torch.arange(9)[None] < 6
    alone = pairwise_weights(queries[:, :6], keys[:, :6], whitened=True)
    queries[:, 6:], keys[:, 6:] = 50.0, -70.0
    together = pairwise_weights(queries, keys, valid, whitened=True)
    assert torch.allclose(together[:, :6, :6], alone, atol=1e-6)
    assert float(together[:, :, 6:].max()) == 0
    assert torch.allclose(centred(keys, valid)[:, :6].mean(1), torch.zeros(1, 4), atol=1e-6)


@pytest.mark.parametrize("disentangled", [True, False])
def test_the_block_does_not_see_padding(disentangled: bool) -> None:
    torch.manual_seed(0)
    block, x = NonLocalBlock(8, 4, disentangled=disentangled), torch.randn(2, 8, 5, 6)
    nn.init.normal_(block.output.weight)
    whole = torch.full((2, 8, 7, 9), 30.0)
    whole[:, :, :5, :6] = x
    valid = torch.zeros(2, 7, 9, dtype=torch.bool)
    valid[:, :5, :6] = True
    alone = block(x)[0]
    assert torch.allclose(block(whole, valid.flatten(1))[0][:, :, :5, :6], alone, atol=1e-5)
    assert not torch.allclose(block(whole)[0][:, :, :5, :6], alone, atol=0.1), "without the mask it does"


def test_16_bits_hold_the_masked_scores() -> None:
    scores = torch.randn(1, 8, 16).half() * 30
    weights = pairwise_weights(scores, scores, torch.arange(8)[None] < 5, whitened=True)
    assert bool(weights.isfinite().all())
    assert float(weights[:, :, 5:].max()) == 0


def test_a_fresh_block_changes_nothing_and_the_twins_start_from_the_same_weights() -> None:
    models: dict[str, DisentangledNonLocal] = {}
    for block in ("dnl", "nonlocal", "none"):
        torch.manual_seed(3)
        models[block] = DisentangledNonLocal(DisentangledNonLocalConfig(NUM_CLASSES, block)).eval()
    own = models["none"].state_dict()
    for block in ("dnl", "nonlocal"):
        theirs = models[block].state_dict()
        assert all(torch.equal(own[name], theirs[name]) for name in own)
        assert {name.partition(".")[0] for name in theirs.keys() - own.keys()} == {"block"}
    with torch.no_grad():
        logits = [model(photo(64, 48))[0] for model in models.values()]
    assert torch.equal(logits[0], logits[2])
    assert torch.equal(logits[1], logits[2])


@pytest.mark.parametrize(("width", "height"), [(96, 64), (100, 75), (33, 47)])
def test_there_is_a_logit_of_each_class_for_each_pixel_of_any_size(width: int, height: int) -> None:
    model, cells = small(), math.ceil(width / 16) * math.ceil(height / 16)
    with torch.no_grad():
        logits, attention = model(photo(width, height), give_attention=True)
    assert logits.shape == (1, NUM_CLASSES, height, width)
    assert attention is not None
    assert attention.unary is not None
    assert attention.pairwise.shape == (1, cells, cells)
    assert torch.allclose(attention.pairwise.sum(-1), torch.ones(1, cells))
    assert torch.allclose(attention.unary.sum(-1), torch.ones(1))


def test_attention_is_returned_only_where_it_was_asked_for_and_there_is_one() -> None:
    image = photo(64, 48)
    with torch.no_grad():
        assert small()(image)[1] is None
        assert small("none")(image, give_attention=True)[1] is None
        plain = small("nonlocal")(image, give_attention=True)[1]
    assert plain is not None
    assert plain.unary is None


@pytest.mark.parametrize("block", ["dnl", "nonlocal", "none"])
@pytest.mark.parametrize(("width", "height"), [(96, 64), (100, 75), (98, 72)])
def test_a_padded_picture_gets_its_own_logits(block: str, width: int, height: int) -> None:
    """For any pixels in the padding, and whether or not the sides are multiples of 16 or of 4."""
    model, image = small(block), photo(width, height)
    whole, mask = padded(image, 160, 128)
    whole[~mask] = torch.randint(0, 256, (int((~mask).sum()), 3), dtype=torch.uint8)
    inner = (slice(None), slice(None), slice(0, height), slice(0, width))
    with torch.no_grad():
        alone, masked, unmasked = model(image)[0][inner], model(whole, mask)[0][inner], model(whole)[0][inner]
    assert float((alone - masked).abs().max()) < 1e-4
    assert float((alone - unmasked).abs().max()) > 0.05, "without the mask it does not"


def test_the_last_rows_and_columns_are_interpolated_without_padding() -> None:
    """As if the picture were alone, where an interpolation repeats the border; without :func:`clamped` it mixes the padding in."""
    torch.manual_seed(0)
    x, rows, columns = torch.randn(2, 3, 6, 7), torch.tensor([4, 6]), torch.tensor([7, 5])
    kept = clamped(
        x, torch.arange(6)[None, None, :, None] < rows[:, None, None, None], torch.arange(7) < columns[:, None, None, None]
    )
    for at, (height, width) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        inner = (slice(0, 1), slice(None), slice(0, 4 * height), slice(0, 4 * width))
        alone, masked, mixed = (
            functional.interpolate(each, scale_factor=4.0, mode="bilinear")[inner]
            for each in (x[at : at + 1, :, :height, :width], kept[at : at + 1], x[at : at + 1])
        )
        assert torch.equal(masked, alone)
        assert not torch.allclose(mixed, alone, atol=0.1)


def test_a_picture_whose_mates_are_padded_keeps_its_logits() -> None:
    model, image, other = small(), photo(96, 64), photo(80, 48, "coffee")
    whole, mask = padded(other, 96, 64)
    with torch.no_grad():
        alone = model(image)[0]
        together = model(torch.cat((image, whole)), torch.cat((torch.ones_like(mask), mask)))[0]
    assert torch.allclose(together[:1], alone, atol=1e-4)


def test_an_unknown_block_is_refused() -> None:
    with pytest.raises(ValueError, match="block must be dnl, nonlocal or none, not 'some'"):
        DisentangledNonLocalConfig(NUM_CLASSES, "some")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.timeout(400)  # the graph is made here
def test_onnx_runtime_computes_it_for_any_batch_and_size(tmp_path: Path) -> None:
    class Served(nn.Module):
        def __init__(self, model: DisentangledNonLocal) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits, attention = self.model(image, mask, give_attention=True)
            assert attention is not None
            assert attention.unary is not None
            return logits, attention.pairwise, attention.unary

    model, path = Served(small()).eval(), str(tmp_path / "segment.onnx")
    batch, height, width = (
        torch.export.Dim("batch", max=64),
        16 * torch.export.Dim("rows", max=64),
        16 * torch.export.Dim("columns", max=64),
    )
    image = torch.cat((photo(96, 64), photo(96, 64, "coffee")))
    shapes = ({0: batch, 1: height, 2: width}, {0: batch, 1: height, 2: width})
    torch.onnx.export(
        model,
        (image, torch.ones(image.shape[:3], dtype=torch.bool)),
        path,
        dynamo=True,
        dynamic_shapes=shapes,
        input_names=["image", "mask"],
        output_names=["logits", "pairwise", "unary"],
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size, whole_size in (((96, 64), (96, 64)), ((100, 75), (128, 96))):
        whole, mask = padded(photo(*size), *whole_size)
        found = session.run(None, {"image": whole.numpy(), "mask": mask.numpy()})
        with torch.no_grad():
            wanted = model(whole, mask)
        for mine, theirs in zip(found, wanted, strict=True):
            assert np.abs(np.asarray(mine) - theirs.numpy()).max() < 1e-3
