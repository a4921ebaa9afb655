# SPDX-License-Identifier: Apache-2.0
"""Show, Attend and Tell: its trunk, its module, its graphs, and a bundle that is exported again from itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor

from attnserve.v1 import manifest_pb2
from attnserve_export import bundles, eight_bits
from attnserve_export.bundle_writer import write_bundle
from attnserve_export.exporter import ExportError, export_graph
from attnserve_export.graphs.parts import name_parts
from attnserve_export.int8_variant import add_int8_variant
from attnserve_export.layers import efficientnet
from attnserve_export.models.show_attend_tell import NO_WORDS, NUM_CELLS, Annotations, ShowAttendTell, ShowAttendTellConfig
from attnserve_export.parity import check_parity
from attnserve_export.parity_sources import ImageSources
from attnserve_export.recipe import CaptionRecipe, load_recipe
from attnserve_export.registry import ARCHITECTURES, build_model
from attnserve_export.trained import TOKENIZER_FILE, TRAINING_FILE, trained_in_bundle, training_file
from tests.photos import FOLDER
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

VOCAB_SIZE = 60


def pixels(name: str) -> Tensor:
    photo = Image.open(FOLDER / f"{name}.jpg").convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(photo).copy())


def small(**sizes: Any) -> ShowAttendTell:
    torch.manual_seed(0)
    return ShowAttendTell(ShowAttendTellConfig(VOCAB_SIZE, d_embedding=32, d_hidden=40, d_alignment=24, **sizes))


def test_maps_sum_to_one_and_the_context_is_their_mean() -> None:
    model = small().eval()
    with torch.no_grad():
        source = model.source(model.annotate(torch.randn(3, NUM_CELLS, efficientnet.WIDTH)))
        hidden, cell = model.initial_state(source.memory.mean(1))
        step = model.step(torch.randn(3, 160), hidden, cell, source)
        assert torch.allclose(step.weights.sum(-1), torch.ones(3))
        gate = torch.sigmoid(model.gate(hidden))
        assert torch.allclose(step.context, gate * torch.einsum("bl,bld->bd", step.weights, source.memory), atol=1e-5)


def test_uniform_attention_stays_uniform_in_training() -> None:
    model = small(attention="uniform", annotation_dropout=0.0).train()
    optimizer = torch.optim.AdamW((each for each in model.parameters() if each.requires_grad), lr=0.1)
    for _ in range(2):
        source = model.source(model.annotate(torch.randn(2, NUM_CELLS, efficientnet.WIDTH)))
        hidden, cell = model.initial_state(source.memory.mean(1))
        step = model.step(torch.zeros(2, 160), hidden, cell, source)
        assert torch.allclose(step.weights, torch.full((2, NUM_CELLS), 1 / NUM_CELLS))
        assert torch.allclose(step.context, torch.sigmoid(model.gate(hidden)) * source.memory.mean(1), atol=1e-5)
        step.context.square().sum().backward()
        optimizer.step()


def test_hard_attention_looks_at_one_place() -> None:
    model = small(attention="hard").eval()
    with torch.no_grad():
        source = model.source(model.annotate(torch.randn(4, NUM_CELLS, efficientnet.WIDTH)))
        hidden, cell = model.initial_state(source.memory.mean(1))
        likeliest, drawn = (model.step(torch.zeros(4, 160), hidden, cell, source, draw=draw) for draw in (False, True))
    gate = torch.sigmoid(model.gate(hidden)).detach()
    assert torch.allclose(likeliest.context, gate * source.memory[torch.arange(4), likeliest.weights.argmax(-1)], atol=1e-6)
    assert likeliest.log_drawn is None
    assert drawn.log_drawn is not None
    distance = (drawn.context[:, None] - gate[:, None] * source.memory).abs().amax(-1)  # (B, L): 0 at the place that was drawn
    assert torch.allclose(drawn.log_drawn, drawn.weights[torch.arange(4), distance.argmin(1)].log(), atol=1e-5)
    assert float(distance.min(1).values.max()) < 1e-6


def test_hard_attention_learns_from_the_mean_too() -> None:
    """Half of the batches of section 4.1: what is not drawn is the mean, so that the alignment has a gradient."""
    model = small(attention="hard", annotation_dropout=0.0).train()
    source = model.source(model.annotate(torch.randn(2, NUM_CELLS, efficientnet.WIDTH)))
    hidden, cell = model.initial_state(source.memory.mean(1))
    step = model.step(torch.zeros(2, 160), hidden, cell, source)
    mean = torch.sigmoid(model.gate(hidden)) * torch.einsum("bl,bld->bd", step.weights, source.memory)
    assert torch.allclose(step.context, mean, atol=1e-5)
    step.context.sum().backward()
    assert model.align_score.grad is not None
    assert float(model.align_score.grad.abs().max()) > 0


def test_an_unknown_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="attention must be soft, hard or uniform, not 'loud'"):
        ShowAttendTellConfig(VOCAB_SIZE, attention="loud")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_all_positions_at_once_are_one_after_the_other() -> None:
    model, tgt = small().eval(), torch.tensor([[2, 7, 9, 30], [2, 41, 5, 5]])
    with torch.no_grad():
        memory = model.annotate(torch.randn(2, NUM_CELLS, efficientnet.WIDTH))
        whole, (maps,) = model.decode(memory, torch.empty(0), tgt)
        for length in range(1, 5):
            part, _ = model.decode(memory, torch.empty(0), tgt[:, :length])
            assert torch.allclose(part, whole[:, :length], atol=1e-6)
    assert maps.shape == (2, 1, 4, NUM_CELLS)
    assert not set(model.next_logits(whole).topk(VOCAB_SIZE - len(NO_WORDS)).indices.flatten().tolist()) & set(NO_WORDS)


@pytest.fixture(scope="module")
def recipe() -> CaptionRecipe:
    found = load_recipe("show-attend-tell-flickr8k")
    assert isinstance(found, CaptionRecipe)
    return found


class Made:
    """A bundle of the recipe's sizes, except for a small vocabulary, with random weights around the trained trunk."""

    def __init__(self, folder: Path, recipe: CaptionRecipe) -> None:
        torch.manual_seed(0)
        fresh = build_model(recipe.architecture, VOCAB_SIZE, recipe.model)
        self.weights = {key: value + 0.05 * torch.randn_like(value) for key, value in fresh.state_dict().items()}
        self.weights |= {f"encoder.{key}": value for key, value in efficientnet.imagenet_weights().items()}
        self.model: Any = bundles.stored_model(recipe, self.weights, VOCAB_SIZE)
        manifest = bundles.described(recipe, self.model)
        manifest.vocabulary.CopyFrom(manifest_pb2.Vocabulary(size=VOCAB_SIZE, begin_id=2, end_id=3))
        architecture = ARCHITECTURES[recipe.architecture].graphs
        cpu, self.cuda = architecture.variants(self.model, list(manifest.states))
        graphs = {spec.file: name_parts(export_graph(spec), architecture.parts) for spec in (cpu.encode, *cpu.steps)}
        manifest.variants.append(cpu.describe())
        add_int8_variant(manifest, graphs, architecture.is_within_one)
        files = {TOKENIZER_FILE: b"words", TRAINING_FILE: training_file(recipe, {"made": "for a test"})}
        self.folder, self.manifest = folder, write_bundle(folder, manifest, graphs, files)
        self.images = [pixels(name).numpy() for name in ("astronaut", "chelsea", "coffee", "rocket")]
        self.sources = ImageSources(self.images, NUM_CELLS, counts=[1, 3])

    def session(self, file: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(str(self.folder / file), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, recipe: CaptionRecipe) -> Made:
    return Made(tmp_path_factory.mktemp("bundle"), recipe)


@pytest.mark.timeout(400)  # the graphs are made here
def test_sound_export_passes(made: Made) -> None:
    report = check_parity(made.folder, made.manifest, made.model, made.sources)
    assert max(case.max_abs_difference for case in report.cases) <= 5e-5
    assert {case.source_tokens for case in report.cases} == {NUM_CELLS}
    assert report.num_identical + report.num_near_ties == 4
    assert [each.variant for each in report.approximate] == ["int8"]


@pytest.mark.parametrize(
    "name", ["encoder.stem.conv.weight", "encoder.blocks.15.project.conv.bias", "gate.weight", "deep_context.weight"]
)
def test_one_wrong_weight_is_refused(made: Made, name: str) -> None:
    wrong = copy.deepcopy(made.model)
    dict(wrong.named_parameters())[name].flatten()[5] += 2.0
    with pytest.raises(ExportError, match=r"parity: .* differs by .* rows, position"):
        check_parity(made.folder, made.manifest, wrong, made.sources)


def test_a_bundle_holds_its_weights(made: Made) -> None:
    again = trained_in_bundle(made.folder)
    assert again.recipe.model_id == "show-attend-tell-flickr8k"
    for name, value in made.model.state_dict().items():
        assert torch.equal(again.weights[name].reshape(value.shape), value), name


def test_eight_bits_are_what_is_stored(made: Made) -> None:
    num_weights = sum(each.numel() for each in made.model.parameters())
    assert (made.folder / "weights.bin").stat().st_size < 1.06 * num_weights
    for name, value in made.model.named_parameters():
        if value.dim() > 1:
            assert torch.equal(torch.from_numpy(eight_bits.rounded(made.weights[name].numpy())), value), name


def test_batch_mates_change_no_bit(made: Made) -> None:
    """Encoder outputs, and steps of each fp32 graph: alone, or among others in any order."""
    encode, rng = made.session("encode.onnx"), np.random.default_rng(1)
    names = [each.name for each in encode.get_outputs()]
    alone = [encode.run(names, {"image": image[None]}) for image in made.images]
    together = encode.run(names, {"image": np.stack(made.images)})
    for index, one in enumerate(alone):
        for mine, theirs in zip(one, together, strict=True):
            assert np.array_equal(np.asarray(mine)[0], np.asarray(theirs)[index])
    for file in ("step_1.onnx", "step_8.onnx"):
        step = made.session(file)
        wanted = [each.name for each in step.get_inputs()]
        for count in (2, 5, 17, 40):
            owners = rng.integers(0, 4, count) if "request_of_row" in wanted else rng.permutation(4)[:count]
            tokens = rng.integers(4, VOCAB_SIZE, len(owners))
            states = dict(zip(names, (np.concatenate([np.asarray(one[at]) for one in alone]) for at in range(4)), strict=True))
            feeds = {"token": tokens, "request_of_row": owners, **states}
            feeds |= {name: states[name][owners] for name in ("hidden", "cell")}
            if "request_of_row" not in wanted:
                feeds |= {name: states[name][owners] for name in ("memory", "key")}
            whole = step.run(None, {name: feeds[name] for name in wanted})
            for row in range(len(owners)):
                own = {name: feeds[name][row : row + 1] for name in ("token", "hidden", "cell")}
                own |= {name: states[name][owners[row], None] for name in ("memory", "key")}
                own["request_of_row"] = np.zeros(1, np.int64)
                single = step.run(None, {name: own[name] for name in wanted})
                for mine, theirs in zip(single, whole, strict=True):
                    assert np.array_equal(np.asarray(mine)[0], np.asarray(theirs)[row])


def test_maps_are_pytorchs(made: Made) -> None:
    encode, step = made.session("encode.onnx"), made.session("step_1.onnx")
    memory, key, hidden, cell = encode.run(["memory", "key", "hidden", "cell"], {"image": np.stack(made.images)})
    with torch.no_grad():
        source = made.model.source(made.model.encode(torch.from_numpy(np.stack(made.images))))
        state = made.model.initial_state(source.memory.mean(1))
        for token in (2, 17, 30, 8):
            feeds = {"token": np.full(4, token), "memory": memory, "key": key, "hidden": hidden, "cell": cell}
            weights, hidden, cell = step.run(["attention", "next_hidden", "next_cell"], feeds)
            gates = made.model.token_gates(made.model.embed(torch.full((4, 1), token)))[:, 0]
            theirs = made.model.step(gates, *state, Annotations(source.memory, source.key))
            state = theirs.hidden, theirs.cell
            assert np.abs(np.asarray(weights) - theirs.weights.numpy()).max() < 1e-5
            assert np.abs(np.asarray(weights).sum(-1) - 1).max() < 1e-5
