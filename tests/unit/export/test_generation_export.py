# SPDX-License-Identifier: Apache-2.0
"""The export of a generator end to end: an untrained small one, on a small data set; and faults that it must find."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import json_format
from onnx import numpy_helper
from torch import nn

from attnserve.v1 import manifest_pb2
from attnserve_export import generation_checks
from attnserve_export.bundle_writer import read_manifest
from attnserve_export.bundles import export_bundle, renew_golden_answers, stored_model
from attnserve_export.exporter import ExportError
from attnserve_export.generation_checks import (
    PIXELS,
    GeneratorRunner,
    batch_mates,
    check_generator,
    drawn,
    exact_of,
    judge_of,
    reference,
    stored_loss,
)
from attnserve_export.graphs.sagan import fold_generator, make_average
from attnserve_export.models.sagan import Generator, SaganConfig, fix_statistics
from attnserve_export.recipe import GenerationRecipe, load_recipe
from attnserve_export.recording import card_of, record
from attnserve_export.trained import Trained, read_training, trained_in_bundle, trained_in_run
from attnserve_export.training.generation import gain
from attnserve_export.training.generation.judge import Judge, Judged
from tests.torch_threads import one_thread  # noqa: F401 - a fixture
from tests.unit.export import training_data

MODEL_ID = "sagan-cifar10"
CHANGES = {"model.latent": 8}  # of smaller widths the exporter would store kernels of another form
LINE = {
    "discriminator_loss": 1.5, "generator_loss": 0.5, "trained_rank": 0.8, "held_back_rank": 0.7, "generator_gamma": 0.1,
    "discriminator_gamma": -0.1, "seconds": 60.0, "cpu_seconds": 60.0,
}  # fmt: skip


def recipe_of(**changes: Any) -> GenerationRecipe:
    recipe = load_recipe(MODEL_ID, {**CHANGES, **changes})
    assert isinstance(recipe, GenerationRecipe)
    return recipe


def untrained() -> Generator:
    """An average that no normalisation and no γ leaves as it is."""
    torch.manual_seed(0)
    model = make_average(SaganConfig(len(training_data.CLASSES), latent=8))
    for name, value in model.named_parameters():
        if ".scale." in name or ".shift." in name or name.endswith("bias") or name == "norm.weight":
            nn.init.normal_(value, 0.5, 0.3)
    assert model.attention is not None
    nn.init.constant_(model.attention.gamma, 0.7)
    fix_statistics(model, batches=2, batch=12, seed=0)
    return model


def write_run(folder: Path, epochs: int = 3) -> Path:
    """A run that was stopped."""
    folder.mkdir(parents=True)
    torch.save(untrained().state_dict(), folder / "best.pt")
    (folder / "log.jsonl").write_text("".join(json.dumps({"epoch": each + 1, **LINE}) + "\n" for each in range(epochs)))
    return folder


@dataclass(frozen=True)
class Made:
    models: Path
    folder: Path
    data: Path
    trained: Trained
    model: nn.Module

    @property
    def manifest(self) -> manifest_pb2.Manifest:
        return read_manifest(self.folder)

    @property
    def card(self) -> str:
        return (self.folder / "MODEL_CARD.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("generation")
    training_data.make_cifar10(root / "data")
    recipe = recipe_of()
    trained = trained_in_run(recipe, write_run(root / "runs" / MODEL_ID))
    folder = export_bundle(trained, root / "data", root / "models")
    return Made(root / "models", folder, root / "data", trained, stored_model(recipe, trained.weights, len(training_data.CLASSES)))


def test_folding_changes_nothing_but_rounding() -> None:
    model = untrained()
    folded = copy.deepcopy(model)
    fold_generator(folded)
    assert not any("running" in name or "gamma" in name for name in folded.state_dict())
    latent, label = torch.randn(5, 8), torch.arange(5) % 3
    with torch.no_grad():
        expected, attention = model(latent, label, give_attention=True)
        found, same = folded(latent, label, give_attention=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(same, attention, atol=1e-5, rtol=0)


def test_bundle_declares_its_inputs_and_outputs(made: Made) -> None:
    manifest = made.manifest
    assert (manifest.task, manifest.format_version) == (manifest_pb2.TASK_GENERATION, 2)
    assert list(manifest.requires) == ["single_pass", "latent_input"]
    declared = manifest.single_pass
    assert (declared.latent.size, declared.generated.width, declared.generated.height, declared.generated.cell) == (8, 32, 32, 2)
    assert [each.name for each in declared.labels] == list(training_data.CLASSES)
    assert [(each.name, each.device) for each in manifest.variants] == [("fp32", 1), ("fp16", 2), ("fp32", 2)]
    for variant in manifest.variants:
        plain, attended = variant.passes
        assert [each.name for each in plain.graph.inputs] == ["latent", "label"]
        assert [each.name for each in attended.graph.outputs] == ["pixels", "attention"]
        assert attended.gives_attention


@pytest.mark.parametrize("index", [0, 1])
def test_graphs_give_the_images_of_the_trained_module(made: Made, index: int) -> None:
    runner, feeds = GeneratorRunner(made.folder, exact_of(made.manifest).passes[index]), drawn(made.manifest, 6, 5)
    found, wanted = runner.run(feeds), reference(untrained(), feeds)
    assert np.abs(found[PIXELS].astype(int) - wanted[PIXELS]).max() <= 4  # weights are rounded to 16 bits
    stored = reference(made.model, feeds)
    assert np.abs(found["image"] - stored["image"]).max() <= 1e-4
    if index:
        np.testing.assert_allclose(found["attention"], stored["attention"], atol=1e-5)
        np.testing.assert_allclose(found["attention"].sum(-1), 1, atol=1e-5)


def test_card_says_that_the_run_was_stopped(made: Made) -> None:
    assert "stopped after 3 of 60 planned epochs" in made.card
    assert "learning rates had not fallen to 0" in made.card
    assert "## Parity with PyTorch" in made.card
    summary = json.loads((made.folder / "training.json").read_text())["summary"]
    assert (summary["epochs"], summary["planned_epochs"], summary["train_seconds"]) == (3, 60, 180)
    assert summary["parameters"]["average"] == sum(each.numel() for each in untrained().parameters())


def test_card_of_a_whole_run_does_not(made: Made, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    trained = trained_in_run(recipe_of(), run)
    summary = {**trained.summary, "updates": 9, "classes": list(training_data.CLASSES)}
    del summary["planned_epochs"]
    (run / "summary.json").write_text(json.dumps(summary))
    folder = export_bundle(trained_in_run(recipe_of(), run), made.data, tmp_path / "models")
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "3 epochs, 9 updates of 64" in card
    assert "planned" not in card


def test_run_without_an_epoch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        trained_in_run(recipe_of(), tmp_path)


def test_bundle_can_be_exported_again_from_itself(made: Made, tmp_path: Path) -> None:
    trained = trained_in_bundle(made.folder)
    again = export_bundle(trained, made.data, tmp_path)
    for name in ("weights.bin", "generate.onnx", "golden.json"):
        assert (again / name).read_bytes() == (made.folder / name).read_bytes()
    assert (again / "MODEL_CARD.md").read_text() == made.card


def test_golden_answers_can_be_renewed(made: Made) -> None:
    before = (made.folder / "golden.json").read_bytes()
    renew_golden_answers(made.folder)
    assert (made.folder / "golden.json").read_bytes() == before
    golden = json_format.Parse(before, manifest_pb2.GoldenPasses())
    assert [[each.name for each in one.outputs] for one in golden.passes] == [["pixels", "attention"], ["pixels"], ["pixels"]]
    assert {(each.variant, each.output) for each in golden.tolerances} == {
        (variant, output) for variant in ("fp32", "fp16") for output in ("pixels", "attention")
    }


def test_twin_has_no_bundle(made: Made, tmp_path: Path) -> None:
    recipe = recipe_of(**{"model.attention": False})
    with pytest.raises(ExportError, match="twin"):
        export_bundle(Trained(recipe, made.trained.weights, b"", made.trained.summary), made.data, tmp_path)


def test_wrong_weight_is_found(made: Made) -> None:
    wrong = copy.deepcopy(made.model)
    with torch.no_grad():
        next(value for name, value in wrong.named_parameters() if name.endswith("conv_2.weight")).mul_(1.01)
    with pytest.raises(ExportError, match=r"fp32 differs by"):
        check_generator(made.folder, made.manifest, wrong)


def test_variant_of_lower_precision_that_is_far_off_is_found(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_checks, "MAX_LEVELS", 1e-9)
    with pytest.raises(ExportError, match=r"fp16 differs by .* grey levels"):
        check_generator(made.folder, made.manifest, made.model)


def test_dependence_on_batch_mates_is_found(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    run = GeneratorRunner.run

    def mixed(self: GeneratorRunner, feeds: Any) -> Any:
        outputs = run(self, feeds)
        return {name: value + value.mean(0) if name == "image" else value for name, value in outputs.items()}

    monkeypatch.setattr(GeneratorRunner, "run", mixed)
    assert batch_mates(made.folder, made.manifest)["max_difference"] > 0.01


def test_bundle_and_run_are_judged_by_the_same_samples(made: Made, tmp_path: Path) -> None:
    run, num_classes = write_run(tmp_path / "run"), len(training_data.CLASSES)
    judge = cast(Judge, lambda pixels: Judged(np.zeros(len(pixels), np.int64), pixels.reshape(len(pixels), -1)[:, :4]))
    of_bundle = gain.bundle_samples(made.folder, judge, 130, num_classes)
    of_run = gain.read_samples(run, recipe_of(), judge, 130, num_classes)
    assert np.array_equal(of_bundle.labels, of_run.labels)
    assert of_bundle.pixels.shape == (130, 32, 32, 3)
    assert np.abs(of_bundle.pixels.astype(int) - of_run.pixels).max() <= 3
    with pytest.raises(FileNotFoundError):
        gain.bundle_samples(tmp_path, judge, 1, num_classes)


def test_loss_of_the_stored_weights_is_measured_by_the_judge(made: Made) -> None:
    trained, asked = untrained(), drawn(made.manifest, 60, 7)["label"]
    found = stored_loss(made.folder, made.manifest, trained, lambda images: asked, count=60)
    assert (found["as_asked"], found["as_asked_trained"]) == (100.0, 100.0)
    assert 0 < found["mean_levels"] < 1
    answers = iter((np.zeros(60, int), asked))
    with pytest.raises(ExportError, match=r"lose 90\.00 %"):
        stored_loss(made.folder, made.manifest, trained, lambda images: next(answers), count=60)


def test_judge_is_the_classifier_of_a_bundle() -> None:
    folder = Path(__file__).parents[3] / "deploy" / "models" / "cbam-cifar10" / "1"
    found = judge_of(folder)(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8))
    assert found.shape == (3,)
    assert set(found.tolist()) <= set(range(10))


def test_graph_without_the_hyperbolic_tangent_is_refused(made: Made, tmp_path: Path) -> None:
    graph = exact_of(made.manifest).passes[0]
    model = onnx.load(made.folder / graph.graph.file)
    next(node for node in model.graph.node if node.op_type == "Tanh").op_type = "Sigmoid"
    onnx.save(model, tmp_path / graph.graph.file)
    with pytest.raises(ExportError, match="0 hyperbolic tangents"):
        GeneratorRunner(tmp_path, graph)


def test_weights_are_stored_once_in_16_bits(made: Made) -> None:
    for file in ("generate.onnx", "generate_attention_fp16.onnx"):
        model = onnx.load(made.folder / file)
        large = [each for each in model.graph.initializer if numpy_helper.to_array(each).nbytes >= 256]
        assert {each.data_type for each in large if "model." in each.name} == {onnx.TensorProto.FLOAT16}
    parameters = sum(each.numel() for each in made.model.state_dict().values())
    assert (made.folder / "weights.bin").stat().st_size < 2.3 * parameters


def judged(fid: float) -> dict[str, Any]:
    near = {"median": 30.0, "median_of_val": 40.0, "share_nearer_than_1_percent_of_val": 0.01}
    return {
        "updates": None, "epochs": 3, "planned_epochs": 60, "samples": 2000, "as_asked": 0.7,
        "as_asked_by_class": {"cat": 0.5}, "variance_of_real": 0.9, "fid": fid, "nearest_train_image": near,
    }  # fmt: skip


GAIN = {"evaluation": "generation_gain", "judge": "cbam-cifar10", "judge_accuracy": 0.88, "generator": judged(1.2)}
DIFFERENCE = {"as_asked": [0.01, -0.02, 0.04], "fid": [-0.3, -0.4, -0.2]}
SAMPLES = {
    "evaluation": "generation", "model": MODEL_ID, "variant": "fp32", "judge": "cbam-cifar10", "judge_variant": "fp32", "seed": 0,
    "samples": 2000, "as_asked": 76.2, "class_as_asked": {"cat": 53.5}, "seconds": 9.0,
}  # fmt: skip


def recorded(made: Made, content: dict[str, Any]) -> str:
    record(made.folder, json.dumps(content).encode())
    return made.card


def test_card_says_that_the_run_went_on(made: Made) -> None:
    recipe, summary = read_training(made.folder)
    card = card_of(recipe)(made.manifest, {**summary, "later": {"epochs": 9, "as_asked": 0.651, "fid": 2.5}})
    assert "The run went on to epoch 9, where its samples were worse (65.1% classified as asked, Fréchet distance 2.50)" in card


def test_recorded_figures_are_in_the_card(made: Made) -> None:
    assert "| classified as asked (%) | 70.0% |" in recorded(made, GAIN)
    assert "the two were not compared" in made.card
    assert "The run went on" not in made.card
    both = recorded(made, {**GAIN, "twin": judged(1.5), "generator - twin": DIFFERENCE})
    assert "| Fréchet distance of the judge's features | 1.20 | 1.50 |" in both
    assert "-0.30 [-0.40, -0.20]. The attention lowers it, as the paper claims." in both
    assert "+1.00 [-2.00, +4.00]" in both
    card = recorded(made, SAMPLES)
    assert "| fp32 | 2,000 generated images | 76.20 |" in card
    assert {(each.metric, each.part): each.value for each in made.manifest.quality} == {
        ("as_asked", ""): 76.2, ("as_asked", "cat"): 53.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"samples": 1999}, "at least 2,000 samples"),
        ({"seed": 1}, "of the seed 0"),
        ({"model": "other"}, "the evaluation is of other"),
        ({"variant": "int8"}, "no variant int8"),
        ({"variant": "fp16", "as_asked": 70.0}, "fp16 loses 6.20 as_asked"),
    ],
)
def test_evaluation_that_does_not_fit_is_refused(made: Made, changes: dict[str, Any], text: str) -> None:
    recorded(made, SAMPLES)
    before = made.card
    with pytest.raises(ExportError, match=text):
        recorded(made, {**SAMPLES, **changes})
    assert made.card == before
