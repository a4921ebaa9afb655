# SPDX-License-Identifier: Apache-2.0
"""The shipped single-pass bundles: their graphs equal PyTorch's module with the bundle's weights, on photos of several shapes.

Planted faults show that the bars can be missed: padding that is told to be picture, and a wrong module.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnserve.v1 import manifest_pb2
from attnserve_export.bundle_writer import read_manifest
from attnserve_export.parity_sources import Array
from attnserve_export.pass_independence import MAX_MATE_DIFFERENCE, MIN_SAME_SHARE, batch_mates, padding
from attnserve_export.pass_runner import PROBABILITIES, PassRunner, mask_of, placed, reference
from tests.parity.torch_module import module_of_bundle
from tests.photos import PHOTOS
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

MIB = 1 << 20
FOLDERS = {name: Path(__file__).parents[2] / "deploy" / "models" / name / "1" for name in ("dnl-camvid", "cbam-cifar10")}
LARGEST = {"dnl-camvid": 3 * MIB, "cbam-cifar10": MIB}
TOLERANCE = 1e-4
SHAPES = [(480, 360), (360, 480), (479, 270), (97, 100), (1, 1), (800, 20)]
"""Width and height of pictures, before they are scaled."""


def photos(shapes: list[tuple[int, int]]) -> list[Array]:
    found = []
    for index, shape in enumerate(shapes):
        found.append(np.asarray(Image.open(PHOTOS[index % len(PHOTOS)]).convert("RGB").resize(shape, Image.Resampling.BICUBIC)))
    return found


def runner(folder: Path, *, attention: bool, variant: str = "fp32") -> PassRunner:
    manifest = read_manifest(folder)
    passes = next(each for each in manifest.variants if each.name == variant).passes
    return PassRunner(folder, next(each for each in passes if each.gives_attention == attention), manifest.task)


@pytest.fixture(scope="module")
def segmentation() -> Any:
    return module_of_bundle(FOLDERS["dnl-camvid"])


@pytest.fixture(scope="module")
def classification() -> Any:
    return module_of_bundle(FOLDERS["cbam-cifar10"])


@pytest.mark.parametrize("model_id", sorted(FOLDERS))
def test_a_bundle_is_within_its_size(model_id: str) -> None:
    assert sum(path.stat().st_size for path in FOLDERS[model_id].iterdir()) <= LARGEST[model_id]


@pytest.mark.parametrize("model_id", sorted(FOLDERS))
def test_a_bundle_reports_parity_and_independence_within_the_limits(model_id: str) -> None:
    parity = read_manifest(FOLDERS[model_id]).parity
    assert len(parity.cases) >= 6
    assert max(each.max_abs_difference for each in parity.cases) <= parity.tolerance == TOLERANCE
    card = (FOLDERS[model_id] / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Batch mates: a picture alone and in batches" in card
    assert "## Gain of the attention" in card


@pytest.mark.parametrize("size", [(480, 360), (360, 480), (480, 272), (480, 480)])
@pytest.mark.parametrize("count", [1, 3])
def test_classes_and_maps_of_a_padded_batch_are_pytorchs(segmentation: Any, size: tuple[int, int], count: int) -> None:
    pictures = photos(SHAPES[:3] if count == 3 else SHAPES[:1])
    feeds = placed(pictures, *size, 16, np.random.default_rng(0))
    theirs, kept = reference(segmentation, feeds), mask_of(feeds)
    for attention in (False, True):
        ours = runner(FOLDERS["dnl-camvid"], attention=attention).run(feeds)
        assert ours["classes"].shape == kept.shape == ours["confidence"].shape
        probabilities = np.moveaxis(theirs[PROBABILITIES], 1, -1)[kept]
        best = np.sort(probabilities, -1)[:, -2:]
        is_clear = best[:, 1] - best[:, 0] > TOLERANCE
        assert (ours["classes"][kept] == probabilities.argmax(-1))[is_clear].all()
        assert np.abs(ours["confidence"][kept] - 255 * best[:, 1]).max() <= 0.5 + 255 * TOLERANCE
        assert np.abs(np.moveaxis(ours[PROBABILITIES], 1, -1)[kept] - probabilities).max() <= TOLERANCE
    for name in ("unary", "pairwise"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
        np.testing.assert_allclose(ours[name].sum(-1), 1, atol=1e-5)
    columns = -(-size[0] // 16)
    for at, (height, width) in enumerate(feeds["size"]):
        grid = ours["pairwise"][at].reshape(16, -1, columns)
        assert not grid[:, -(-height // 16) :].any()
        assert not grid[:, :, -(-width // 16) :].any()


def test_pictures_of_extreme_shapes_have_classes(segmentation: Any) -> None:
    feeds = placed(photos(SHAPES[3:]), 480, 360, 16, np.random.default_rng(0))
    ours, theirs, kept = runner(FOLDERS["dnl-camvid"], attention=False).run(feeds), reference(segmentation, feeds), mask_of(feeds)
    assert np.abs(np.moveaxis(ours[PROBABILITIES] - theirs[PROBABILITIES], 1, -1)[kept]).max() <= TOLERANCE


@pytest.mark.parametrize("count", [1, 2, 8])
def test_probabilities_and_maps_of_images_are_pytorchs(classification: Any, count: int) -> None:
    feeds = {"image": np.stack(photos([(32, 32)] * count))}
    theirs = reference(classification, feeds)
    plain, attended = (runner(FOLDERS["cbam-cifar10"], attention=each).run(feeds) for each in (False, True))
    assert set(attended) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_allclose(attended[name], value, atol=1e-5)
    np.testing.assert_allclose(plain[PROBABILITIES], theirs[PROBABILITIES], atol=1e-5)


@pytest.mark.parametrize("model_id", sorted(FOLDERS))
def test_a_picture_has_the_same_answer_alone_and_in_a_batch(model_id: str) -> None:
    manifest, is_classifier = read_manifest(FOLDERS[model_id]), model_id == "cbam-cifar10"
    found = batch_mates(
        runner(FOLDERS[model_id], attention=False), manifest, photos([(32, 32)] * 4 if is_classifier else [(480, 360)] * 4)
    )
    assert found["different_classes"] == 0
    assert found["max_difference"] <= MAX_MATE_DIFFERENCE


def test_padding_does_not_matter_unless_it_is_taken_for_the_picture() -> None:
    manifest, plain = read_manifest(FOLDERS["dnl-camvid"]), runner(FOLDERS["dnl-camvid"], attention=False)
    pictures = photos([(480, 360)] * 2)
    assert padding(plain, manifest, pictures)["least_share"] >= MIN_SAME_SHARE
    assert padding(plain, manifest, pictures, is_masked=False)["least_share"] < MIN_SAME_SHARE  # the planted fault


def test_a_module_that_does_not_mask_its_attention_differs(segmentation: Any) -> None:
    """The planted fault of the comparison above: the same weights, with padding in the attention."""
    feeds = placed(photos(SHAPES[2:3]), 480, 480, 16, np.random.default_rng(0))
    unmasked = reference(copy.deepcopy(segmentation), {**feeds, "size": np.array([[480, 480]])})
    ours = runner(FOLDERS["dnl-camvid"], attention=True).run(feeds)
    assert np.abs(ours["unary"] - unmasked["unary"]).max() > 1e-5
    kept = mask_of(feeds)
    assert np.abs(np.moveaxis(ours[PROBABILITIES] - unmasked[PROBABILITIES], 1, -1)[kept]).max() > TOLERANCE


@pytest.mark.parametrize("model_id", sorted(FOLDERS))
def test_the_approximate_variant_gives_nearly_the_same_classes(model_id: str) -> None:
    feeds: dict[str, Array] = {"image": np.stack(photos([(32, 32)] * 4))}
    if model_id == "dnl-camvid":
        feeds = placed(photos(SHAPES[:1]), 480, 360, 16, np.random.default_rng(0))
    exact, half = (runner(FOLDERS[model_id], attention=False, variant=name).run(feeds) for name in ("fp32", "fp16"))
    assert (exact[PROBABILITIES].argmax(1) == half[PROBABILITIES].argmax(1)).mean() >= 0.999


def test_the_declared_tensors_are_those_of_the_graphs() -> None:
    for folder in FOLDERS.values():
        for variant in read_manifest(folder).variants:
            for each in variant.passes:
                session = PassRunner(folder, each, manifest_pb2.TASK_UNSPECIFIED, is_plain=True).session
                assert [value.name for value in session.get_inputs()] == [tensor.name for tensor in each.graph.inputs]
                assert [value.name for value in session.get_outputs()] == [tensor.name for tensor in each.graph.outputs]
                shapes = [len(value.shape) for value in (*session.get_inputs(), *session.get_outputs())]
                assert shapes == [len(tensor.axes) for tensor in (*each.graph.inputs, *each.graph.outputs)]


def test_the_bundles_weights_are_the_modules(segmentation: Any) -> None:
    assert not any(torch.isnan(value).any() for value in segmentation.state_dict().values())
    assert torch.equal(segmentation.classify.weight, segmentation.classify.weight.half().float())
