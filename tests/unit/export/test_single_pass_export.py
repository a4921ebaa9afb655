# SPDX-License-Identifier: Apache-2.0
"""The export of single-pass models end to end: small models with random weights, on small data sets; and faults that it must find.

A graph of Disentangled Non-local takes ten seconds of processor time to trace, so its second export is a long test.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import json_format
from torch import nn

from attnserve.v1 import manifest_pb2
from attnserve_export import pass_independence, pass_runner
from attnserve_export.bundle_writer import read_manifest
from attnserve_export.bundles import export_bundle, renew_golden_answers, stored_model
from attnserve_export.exporter import ExportError
from attnserve_export.golden_sources import made_up_clips
from attnserve_export.graphs import disentangled_nonlocal, nonlocal_video
from attnserve_export.graphs.upsampled import UpsampledClasses
from attnserve_export.layers.folded import fold_norms, has_norms
from attnserve_export.parity_sources import Array
from attnserve_export.pass_independence import check_independence
from attnserve_export.pass_parity import check_passes
from attnserve_export.pass_runner import PROBABILITIES, PassRunner, with_logits
from attnserve_export.recipe import (
    ClassificationRecipe,
    SegmentationRecipe,
    VideoRecipe,
    VisionRecipe,
    load_recipe,
)
from attnserve_export.registry import build_model
from attnserve_export.trained import Trained, trained_in_bundle, trained_in_run, whole_model
from attnserve_export.training.segmentation.data import CLASSES
from attnserve_export.training.video.data import CLASSES as CLIP_CLASSES
from tests.torch_threads import one_thread  # noqa: F401 - a fixture
from tests.unit.export import training_data
from tests.unit.export.test_segmentation_training import data as camvid  # noqa: F401 - a fixture
from tests.unit.export.video_data import make_fight_video

CHANGES: dict[str, dict[str, Any]] = {
    "cbam-cifar10": {"model.blocks": 1},
    "dnl-camvid": {"model.width": 16, "model.inner": 8, "model.decoder": [8, 8]},
    "nonlocal-fight": {"model.width": 8, "model.bottleneck": 4},
}
SIZES = ((96, 48), (64, 96), (96, 64), (96, 96))
"""Width and height of the images, instead of Disentangled Non-local's own ones."""
COMMON = {
    "epochs": 2, "updates": 6, "kept_epoch": 1, "parameters": {"model": 9}, "train_seconds": 60,
    "log": [{"epoch": each, "loss": 2.5, "accuracy": 0.1, "held_back_accuracy": 0.2, "held_back_miou": 3.0, "held_back_loss": 0.7} for each in (1, 2)],
}  # fmt: skip
SUMMARIES: dict[str, dict[str, Any]] = {
    "cbam-cifar10": {"classes": list(training_data.CLASSES), "val_accuracy": 0.01, "val_accuracy_cleaned": {"blurred": 0.02}},
    "dnl-camvid": {
        "classes": list(CLASSES), "val_miou": 0.1, "val_ious": dict.fromkeys(CLASSES, 0.1), "val_miou_cleaned": {"blurred": 0.2},
    },
    "nonlocal-fight": {
        "classes": list(CLIP_CLASSES), "test_accuracy": 0.01, "test_clips": 4,
        "adapted": {"test_accuracy_before": 0.5, "encodings": ["gif-112-112"]},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A bundle, the repository that it is in, what it was made from, and its module."""

    models: Path
    folder: Path
    data: Path
    trained: Trained
    model: nn.Module

    @property
    def manifest(self) -> manifest_pb2.Manifest:
        return read_manifest(self.folder)


def fresh(model_id: str) -> Trained:
    """A model with random weights, which no batch normalisation leaves as they are."""
    recipe = load_recipe(model_id, CHANGES[model_id])
    assert isinstance(recipe, ClassificationRecipe | SegmentationRecipe | VideoRecipe)
    summary = {**COMMON, **SUMMARIES[model_id]}
    torch.manual_seed(0)
    model = build_model(recipe.architecture, len(summary["classes"]), recipe.model)
    if hasattr(model, "load_imagenet"):
        model.load_imagenet()  # type: ignore[operator]
    weights = model.state_dict()
    if model_id == "nonlocal-fight":
        weights |= whole_model({})  # the trunk has ImageNet weights
    for name, value in weights.items():
        if name.endswith(("running_mean", "running_var")) or "block.output" in name:
            value.copy_(torch.rand_like(value) + 0.5)
    return Trained(recipe, weights, b"", summary)


@pytest.fixture(scope="module")
def small_sizes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(disentangled_nonlocal, "SIZES", SIZES)
        yield


@pytest.fixture(scope="module")
def all_made(tmp_path_factory: pytest.TempPathFactory, camvid: Path, small_sizes: None) -> Callable[[str], Made]:  # noqa: F811
    made: dict[str, Made] = {}

    def make(model_id: str) -> Made:
        if model_id not in made:
            models = tmp_path_factory.mktemp("models")
            make_data = {"cbam-cifar10": training_data.make_cifar10, "nonlocal-fight": make_fight_video}.get(model_id)
            data = make_data(tmp_path_factory.mktemp("data")) if make_data is not None else camvid
            trained = fresh(model_id)
            model = stored_model(trained.recipe, trained.weights, len(trained.summary["classes"]))
            made[model_id] = Made(models, export_bundle(trained, data, models), data, trained, model)
        return made[model_id]

    return make


@pytest.fixture(params=sorted(CHANGES))
def made(request: pytest.FixtureRequest, all_made: Callable[[str], Made]) -> Made:
    return all_made(request.param)


def pictures(count: int, height: int = 48, width: int = 60) -> list[Array]:
    rng = np.random.default_rng(3)
    squares = rng.integers(0, 256, (count, -(-height // 6), -(-width // 6), 3)).astype(np.uint8)
    return list(squares.repeat(6, 1).repeat(6, 2)[:, :height, :width])


def moving_clips() -> list[Array]:
    return [
        np.asarray(clip) for clip in made_up_clips(nonlocal_video.GRAPHS.single_pass(build_model("nonlocal-video", 2, {})).clip)
    ]  # type: ignore[misc]


@pytest.mark.timeout(900)  # the graphs are made here
def test_a_bundle_declares_its_graphs_labels_and_checks(made: Made) -> None:
    manifest = made.manifest
    needs = ["single_pass", "clip_input"] if manifest.single_pass.HasField("clip") else ["single_pass"]
    assert (manifest.format_version, list(manifest.requires)) == (2, needs)
    assert [(each.name, each.device) for each in manifest.variants] == [
        ("fp32", manifest_pb2.DEVICE_CPU),
        ("fp16", manifest_pb2.DEVICE_CUDA),
        ("fp32", manifest_pb2.DEVICE_CUDA),
    ]
    for variant in manifest.variants:
        assert not variant.steps
        assert not variant.HasField("encode")
        assert [each.gives_attention for each in variant.passes] == [False, True]
        attention = {each.output for each in manifest.single_pass.attention}
        outputs = [{tensor.name for tensor in each.graph.outputs} for each in variant.passes]
        assert outputs[1] - outputs[0] == attention
        assert all(tensor.axes[0] == "batch" for each in variant.passes for tensor in (*each.graph.inputs, *each.graph.outputs))
    assert [each.name for each in manifest.single_pass.labels] == made.trained.summary["classes"]
    assert len({each.colour for each in manifest.single_pass.labels}) == len(manifest.single_pass.labels)
    assert max(each.max_abs_difference for each in manifest.parity.cases) <= 1e-4
    assert [each.variant for each in manifest.parity.approximate] == ["fp16"]


@pytest.mark.timeout(900)
def test_the_card_reports_quality_parity_and_terms(made: Made) -> None:
    card = (made.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    measured = json.loads((made.folder / "training.json").read_text(encoding="utf-8"))["summary"]["measured"]
    assert f"{measured['val']['score']:.2f}" in card
    assert made.manifest.data.terms in card
    for heading in ("## Training", "## Quality", "## Parity with PyTorch", "## Use, limits, terms"):
        assert heading in card
    assert "## Gain" not in card  # it was not recorded


@pytest.mark.timeout(900)
@pytest.mark.parametrize("made", ["cbam-cifar10", pytest.param("dnl-camvid", marks=pytest.mark.long)], indirect=True)
def test_an_export_from_the_bundle_is_the_same_bundle(made: Made, tmp_path: Path) -> None:
    again = trained_in_bundle(made.folder)
    assert not has_norms(again.weights)
    folder = export_bundle(again, made.data, tmp_path)
    for path in sorted(made.folder.iterdir()):
        if path.name != "manifest.json":  # names are written in the order of protobuf's maps, contents are compared here
            assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
    assert read_manifest(folder) == made.manifest


@pytest.mark.timeout(900)
def test_golden_passes_have_the_modules_answers_for_each_size(made: Made) -> None:
    golden = json_format.Parse((made.folder / "golden.json").read_text(encoding="utf-8"), manifest_pb2.GoldenPasses())
    sizes = [(each.height, each.width) for each in made.manifest.single_pass.picture.sizes]
    shapes = [tuple(each.shape[:2]) for one in golden.passes for each in one.inputs if each.name == "image"]
    assert sorted(set(shapes)) == sorted(sizes)
    known = {(each.variant, each.output) for each in golden.tolerances}
    assert known == {(variant, each.name) for variant in ("fp32", "fp16") for each in golden.passes[0].outputs}
    attention = {each.output for each in made.manifest.single_pass.attention}
    assert attention <= {each.name for each in golden.passes[0].outputs}
    before = (made.folder / "golden.json").read_bytes()
    assert renew_golden_answers(made.folder) == made.folder
    assert (made.folder / "golden.json").read_bytes() == before


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("model_id", "name"),
    [
        ("cbam-cifar10", "stem.weight"),
        ("dnl-camvid", "encoder.stem.conv.weight"),
        ("nonlocal-fight", "trunk.stem.conv.weight"),
        ("nonlocal-fight", "head.block.query.weight"),
    ],
)
def test_one_wrong_weight_is_refused(all_made: Callable[[str], Made], model_id: str, name: str) -> None:
    made = all_made(model_id)
    wrong = copy.deepcopy(made.model)
    dict(wrong.named_parameters())[name].flatten()[5] += 2.0
    examples = {"cbam-cifar10": lambda: pictures(2, 32, 32), "dnl-camvid": lambda: pictures(2), "nonlocal-fight": moving_clips}
    with pytest.raises(ExportError, match=r"parity: .* differs by .* in a batch of 1"):
        check_passes(made.folder, made.manifest, wrong, examples[model_id]())


@pytest.mark.timeout(900)
def test_an_answer_that_depends_on_batch_mates_is_refused(all_made: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch) -> None:
    made, run = all_made("cbam-cifar10"), PassRunner.run

    def faulty(self: PassRunner, feeds: Any) -> Any:
        found = run(self, feeds)
        found[PROBABILITIES] = found[PROBABILITIES] + 2e-5 * (len(feeds["image"]) - 1)
        return found

    check_independence(made.folder, made.manifest, pictures(4, 32, 32))
    monkeypatch.setattr(pass_runner.PassRunner, "run", faulty)
    with pytest.raises(ExportError, match="independence: batch mates change a probability by"):
        check_independence(made.folder, made.manifest, pictures(4, 32, 32))


@pytest.mark.timeout(900)
def test_padding_that_is_not_masked_is_refused(all_made: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch) -> None:
    made, classes = all_made("dnl-camvid"), pass_independence.classes_in
    check_independence(made.folder, made.manifest, pictures(1))
    monkeypatch.setattr(pass_independence, "classes_in", lambda *args, is_masked: classes(*args, is_masked=False))
    with pytest.raises(ExportError, match=r"independence: in another size .* of a picture's pixels have another class"):
        check_independence(made.folder, made.manifest, pictures(1))


@pytest.mark.timeout(900)
def test_other_classes_in_a_pictures_last_rows_are_refused(
    all_made: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, classes = all_made("dnl-camvid"), pass_independence.classes_in

    def faulty(runner: PassRunner, picture: Array, size: manifest_pb2.PictureSize, *, is_masked: bool) -> Array:
        found = classes(runner, picture, size, is_masked=is_masked).copy()
        found[-1, : found.shape[1] // 8] += size.width == size.height
        return found

    monkeypatch.setattr(pass_independence, "classes_in", faulty)
    with pytest.raises(ExportError, match=r"independence: in another size \d\.\d\d% of a picture's edge pixels have another class"):
        check_independence(made.folder, made.manifest, pictures(1))


@pytest.mark.timeout(900)
def test_weights_that_lose_quality_by_rounding_are_refused(all_made: Callable[[str], Made], tmp_path: Path) -> None:
    made = all_made("cbam-cifar10")
    better = Trained(made.trained.recipe, made.trained.weights, b"", {**made.trained.summary, "val_accuracy": 0.999})
    with pytest.raises(ExportError, match=r"the stored weights lose .* points on val \(allowed: 0.2\)"):
        export_bundle(better, made.data, tmp_path)
    assert not list(tmp_path.glob("*/*"))


def test_a_twin_is_not_exported(tmp_path: Path) -> None:
    for model_id, changes in (
        ("cbam-cifar10", {"model.attention": False}),
        ("dnl-camvid", {"model.block": "none"}),
        ("nonlocal-fight", {"model.pairwise": "none"}),
    ):
        twin = load_recipe(model_id, changes)
        with pytest.raises(ExportError, match=f"{model_id}: a twin without attention"):
            export_bundle(Trained(twin, {}, b"", {"classes": ["a"]}), tmp_path, tmp_path)


def test_a_run_without_text_needs_no_tokenizer(tmp_path: Path) -> None:
    trained = fresh("cbam-cifar10")
    torch.save(trained.weights, tmp_path / "best.pt")
    (tmp_path / "summary.json").write_text(json.dumps(trained.summary), encoding="utf-8")
    found = trained_in_run(trained.recipe, tmp_path)
    assert isinstance(found.recipe, VisionRecipe)
    assert found.tokenizer == b""
    assert found.summary == trained.summary


def test_folded_norms_change_no_output() -> None:
    trained = fresh("cbam-cifar10")
    model = build_model("cbam", 10, trained.recipe.model)
    model.load_state_dict(trained.weights)
    image = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        before, _ = model.eval()(image)
        fold_norms(model, {"stem": "norm", "conv_1": "norm_1", "conv_2": "norm_2"})
        after, _ = model(image)
    assert not [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_classes_are_those_of_the_interpolated_logits() -> None:
    logits = torch.randn(2, 7, 5, 6, generator=torch.Generator().manual_seed(1)) * 4
    logits[:, 3] = logits[:, 5]  # equal ones: the first counts
    whole = nn.functional.interpolate(logits, scale_factor=4.0, mode="bilinear")
    classes, confidence = UpsampledClasses(7, 4)(logits)
    assert torch.equal(classes.long(), whole.argmax(1))
    assert int((confidence.long() - (255 * whole.softmax(1).amax(1)).round().long()).abs().max()) == 0


@pytest.mark.timeout(900)
def test_a_graph_that_interpolates_no_logits_is_named(all_made: Callable[[str], Made]) -> None:
    with pytest.raises(ExportError, match=r"classify.onnx has 0 linear interpolations instead of one"):
        with_logits(all_made("cbam-cifar10").folder / "classify.onnx")
