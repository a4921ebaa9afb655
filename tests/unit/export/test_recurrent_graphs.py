# SPDX-License-Identifier: Apache-2.0
"""Graphs of RNNsearch and of the sequence-to-sequence model: parity, attention, and answers whose bits batch mates do not change."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from attnserve.v1 import manifest_pb2
from attnserve_export import bundles
from attnserve_export.bundle_writer import write_bundle
from attnserve_export.exporter import ExportError, export_graph
from attnserve_export.graphs.parts import name_parts
from attnserve_export.graphs.spec import Graphs, VariantSpec
from attnserve_export.int8_variant import add_int8_variant
from attnserve_export.parity import check_parity
from attnserve_export.parity_sources import TextSources
from attnserve_export.recipe import Recipe, load_recipe
from attnserve_export.registry import ARCHITECTURES, build_model
from attnserve_export.trained import TOKENIZER_FILE, TRAINING_FILE, trained_in_bundle, training_file
from attnserve_server.bundle.checks import STEP_INPUTS
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

VOCAB_SIZE = 90
CAPACITY = 160  # of 128 source tokens and the end symbol, in whole blocks
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "rnnsearch": ("rnnsearch-en-de", {}),
    "seq2seq": ("seq2seq-en-de", {}),
    "seq2seq of GRUs": ("seq2seq-en-de", {"cell": "gru", "d_hidden": 40}),
}
Array = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng(0)
SOURCES = [[*RNG.integers(4, VOCAB_SIZE, length).tolist(), 3] for length in (3, 9, 31, 12, 1, 7, 32, 18, 5, 100, 22, 63)]
GRID = [(1, 2), (2, 7), (3, 40)]


@dataclass
class Made:
    """A bundle of the recipe's sizes, except for a small vocabulary, with random weights."""

    folder: Path
    model: Any
    manifest: manifest_pb2.Manifest
    recipe: Recipe

    @functools.cached_property
    def sessions(self) -> dict[str, onnxruntime.InferenceSession]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        files = {
            name
            for variant in self.manifest.variants
            for name in (variant.encode.file, *(step.graph.file for step in variant.steps))
        }
        return {
            name: onnxruntime.InferenceSession(str(self.folder / name), options, providers=["CPUExecutionProvider"])
            for name in files
        }

    def run(self, graph: manifest_pb2.Graph, feeds: dict[str, Array]) -> dict[str, Array]:
        names = [tensor.name for tensor in graph.outputs]
        return dict(zip(names, self.sessions[graph.file].run(names, feeds), strict=True))  # pyright: ignore[reportArgumentType]

    def steps(self, variant: str) -> list[manifest_pb2.StepGraph]:
        """The step graphs of a variant; none where it was not made."""
        return [step for each in self.manifest.variants if each.name == variant for step in each.steps]

    def encode(self, sources: Sequence[list[int]], extra: int = 0) -> dict[str, Array]:
        lengths = np.array([len(source) for source in sources], np.int32)
        padded = np.zeros((len(sources), max(lengths) + extra), np.int64)
        for row, source in zip(padded, sources, strict=True):
            row[: len(source)] = source
        return self.run(self.manifest.variants[0].encode, {"source": padded, "source_length": lengths})

    def states(self, encoded: dict[str, Array], stale: float = 0.0) -> dict[str, Array]:
        """The first values in slots that hold ``stale`` elsewhere."""
        values = {}
        for state in self.manifest.states:
            first = encoded[state.encode_output]
            sizes = [state.capacity if axis == state.growing_axis else int(axis) for axis in state.axes[1:]]
            values[state.name] = np.full([len(first), *sizes], stale, np.float32)
            values[state.name][tuple(slice(0, size) for size in first.shape)] = first
        return values

    def step(
        self, index: int, tokens: Array, lengths: Array, of_row: Array, states: dict[str, Array], variant: str = "fp32"
    ) -> dict[str, Array]:
        graph = self.steps(variant)[index].graph
        feeds = {"token": tokens, "source_length": lengths, "request_of_row": of_row, **states}
        wanted = {tensor.name for tensor in graph.inputs}
        return self.run(graph, {name: value for name, value in feeds.items() if name in wanted})


@pytest.fixture(scope="module")
def all_made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """Makes each once."""
    return functools.cache(lambda name: make(name, tmp_path_factory.mktemp("bundle")))


@pytest.fixture(params=MODELS)
def made(request: pytest.FixtureRequest, all_made: Callable[[str], Made]) -> Made:
    return all_made(request.param)


def make(name: str, folder: Path) -> Made:
    recipe_name, sizes = MODELS[name]
    recipe = load_recipe(recipe_name)
    recipe.model.update(sizes)
    torch.manual_seed(0)
    fresh = build_model(recipe.architecture, VOCAB_SIZE, recipe.model)
    weights = {key: value + 0.05 * torch.randn_like(value) for key, value in fresh.state_dict().items()}
    model = bundles.stored_model(recipe, weights, VOCAB_SIZE)
    manifest = bundles.described(recipe, model)
    manifest.vocabulary.CopyFrom(manifest_pb2.Vocabulary(size=VOCAB_SIZE, begin_id=2, end_id=3))
    architecture = ARCHITECTURES[recipe.architecture].graphs
    cpu, cuda = architecture.variants(model, list(manifest.states))
    if sizes:  # the additions of the beam's graph are the same for both cells
        cpu = replace(cpu, steps=cpu.steps[:1])
    graphs = exported(cpu, architecture)
    manifest.variants.append(cpu.describe())
    if any(spec.file not in graphs for spec in cuda.steps) and not sizes:
        fixed = replace(cuda, name="fixed", device=manifest_pb2.DEVICE_CPU)  # the variant's float32 graphs run on a CPU too
        graphs |= exported(fixed, architecture, graphs)
        manifest.variants.append(fixed.describe())
    add_int8_variant(manifest, graphs, architecture.is_within_one)
    int8, *others = manifest.variants
    del manifest.variants[:]
    manifest.variants.extend([*others, int8])
    summary = {"made": "for a test"}
    files = {TOKENIZER_FILE: b"pieces", TRAINING_FILE: training_file(recipe, summary)}
    return Made(folder, model, write_bundle(folder, manifest, graphs, files), recipe)


def exported(variant: VariantSpec, architecture: Graphs, known: Container[str] = ()) -> dict[str, Any]:
    specs = [spec for spec in (variant.encode, *variant.steps) if spec.file not in known]
    return {spec.file: name_parts(export_graph(spec), architecture.parts) for spec in specs}


def bits(array: Array) -> bytes:
    return np.ascontiguousarray(array).tobytes()


@pytest.mark.timeout(400)  # the graphs are made here
def test_sound_export_passes(made: Made) -> None:
    report = check_parity(made.folder, made.manifest, made.model, TextSources(SOURCES, VOCAB_SIZE, GRID))
    assert {case.graph for case in report.cases} == {f"fp32/{step.graph.file}" for step in made.steps("fp32")}
    differences = {each.variant: each.max_abs_difference for each in report.approximate}
    assert differences.pop("fixed", 0.0) <= 1e-5, "the graphs for CUDA compute the same"
    least = 0 if made.recipe.model.get("cell") == "gru" else 1e-3  # the GRUs here are too small for int8
    assert least <= differences["int8"] < 1.0
    assert max(case.max_abs_difference for case in report.cases) <= 1e-5
    assert report.num_identical + report.num_near_ties == len(SOURCES)


def test_one_wrong_weight_is_refused(made: Made) -> None:
    for name, _ in made.model.named_parameters():
        if name.endswith(("align_memory.weight", "backward_reader.weight_hh_l0", "reader.1.weight_hh_l0", "deep.bias")):
            wrong = copy.deepcopy(made.model)
            dict(wrong.named_parameters())[name].flatten()[5] += 2.0
            with pytest.raises(ExportError, match=r"parity: .* differs by .* rows, position"):
                check_parity(made.folder, made.manifest, wrong, TextSources(SOURCES, VOCAB_SIZE, GRID))


def test_description_is_what_a_server_needs(made: Made) -> None:
    manifest = made.manifest
    has_attention = manifest.architecture == "rnnsearch"
    assert manifest.HasField("attention") == has_attention
    assert manifest.paper.year in (2014, 2015)
    for step in made.steps("fp32"):
        inputs = {tensor.name for tensor in step.graph.inputs}
        assert inputs - {state.name for state in manifest.states} <= STEP_INPUTS
        assert ("request_of_row" in inputs) == (step.max_rows_of_request != 1)
        assert step.gives_attention == has_attention == ("attention" in {tensor.name for tensor in step.graph.outputs})
        assert {value.name for value in made.sessions[step.graph.file].get_inputs()} == inputs
    for state in manifest.states:
        is_shared = state.scope == manifest_pb2.SCOPE_REQUEST
        assert is_shared == (state.name in ("memory", "key")) == bool(state.growing_axis)
        assert bool(state.step_output) != is_shared
        assert not state.in_place
        assert state.capacity == (CAPACITY if is_shared else 0)


def company(made: Made, index: int, seed: int, spoil: float = 0.0, variant: str = "fp32") -> list[str]:
    """Runs rows alone, then among others in any order and number, on stale slots. Returns the names of outputs that differ."""
    rng, lengths = np.random.default_rng(seed), np.array([len(source) for source in SOURCES], np.int32)
    is_routed = made.steps(variant)[index].max_rows_of_request != 1
    alone = [made.states(made.encode([source])) for source in SOURCES]
    tokens = rng.integers(4, VOCAB_SIZE, 40)
    different = set()
    for _ in range(12):
        requests = rng.permutation(len(SOURCES))[: rng.integers(1, len(SOURCES) + 1)]
        states = made.states(made.encode([SOURCES[i] for i in requests], extra=int(rng.integers(0, 9))), stale=7.0)
        of_row = rng.integers(0, len(requests), rng.integers(1, 33)) if is_routed else np.arange(len(requests))
        for state in made.manifest.states:
            if state.scope == manifest_pb2.SCOPE_HYPOTHESIS:
                states[state.name] = states[state.name][of_row]
        together = made.step(index, tokens[: len(of_row)], lengths[requests], of_row, states, variant)
        for row, place in enumerate(of_row):
            request, zero = requests[place], np.zeros(1, np.int64)
            single = made.step(index, tokens[row : row + 1], lengths[request : request + 1], zero, alone[request], variant)
            for name, value in single.items():
                if bits(value[0] + np.asarray(spoil, value.dtype)) != bits(together[name][row]):
                    different.add(name)
    return sorted(different)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_batch_mates_change_no_bit(made: Made, variant: str) -> None:
    for index in range(len(made.steps(variant))):
        assert company(made, index, seed=index, variant=variant) == []


def test_weights_that_the_exporter_has_folded_are_missed(all_made: Callable[[str], Made]) -> None:
    with pytest.raises(ExportError, match="do not hold"):
        trained_in_bundle(all_made("seq2seq of GRUs").folder)


def test_constants_are_folded_at_load(made: Made, tmp_path: Path) -> None:
    """In particular the table of tokens: a step must not compute it."""
    for variant in ("fp32", "int8"):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        path = made.folder / made.steps(variant)[0].graph.file
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph
        constants = {each.name for each in graph.initializer}
        computed = [node.name for node in graph.node if all(name in constants or not name for name in node.input)]
        assert computed == []


@pytest.mark.parametrize("name", ["rnnsearch", "seq2seq"])
def test_a_bundle_is_all_that_an_export_needs(all_made: Callable[[str], Made], name: str) -> None:
    made = all_made(name)
    found = trained_in_bundle(made.folder)
    assert (found.recipe, found.tokenizer) == (made.recipe, b"pieces")
    assert {name for name, value in made.model.state_dict().items() if not torch.equal(value, found.weights[name])} == set()


def test_a_changed_bit_is_seen(made: Made) -> None:
    assert "log_probs" in company(made, 0, seed=0, spoil=1e-6)


@pytest.mark.parametrize("name", ["rnnsearch", "seq2seq"])
def test_both_steps_give_the_same_bits(all_made: Callable[[str], Made], name: str) -> None:
    made = all_made(name)
    lengths = np.array([len(source) for source in SOURCES], np.int32)
    states, rows = made.states(made.encode(SOURCES)), np.arange(len(SOURCES))
    one, other = (made.step(index, rows + 4, lengths, rows, states) for index in (0, 1))
    assert set(other) - set(one) == {"top_log_probs", "top_tokens"}
    assert [name for name in one if bits(one[name]) != bits(other[name])] == []
    assert np.array_equal(other["top_tokens"][:, 0], other["log_probs"].argmax(-1))


def test_attention_is_the_module_s(all_made: Callable[[str], Made]) -> None:
    made = all_made("rnnsearch")
    lengths, rows = np.array([len(source) for source in SOURCES], np.int32), np.arange(len(SOURCES))
    found = made.step(0, np.full(len(SOURCES), 2), lengths, rows, made.states(made.encode(SOURCES), stale=7.0))["attention"]
    assert found.shape == (len(SOURCES), CAPACITY)
    for row, source in zip(found, SOURCES, strict=True):
        src = torch.tensor([source])
        expected = made.model.decode(made.model.encode(src), src, torch.tensor([[2]]))[1][0][0, 0, 0]
        assert np.abs(row[: len(source)] - expected.numpy()).max() < 1e-5
        assert not row[len(source) :].any()
        assert abs(row.sum() - 1) < 1e-5
