# SPDX-License-Identifier: Apache-2.0
"""The foreign models' graphs, driven by their manifests with plain ONNX Runtime, against their PyTorch modules."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from attnserve.v1 import manifest_pb2
from tests.foreign import common, gru_luong, post_norm_transformer
from tests.foreign.common import BEGIN_ID, CAPACITY, END_ID, FLOAT32, INT32, INT64, PAD_ID, VOCAB_SIZE
from tests.reference.beam_search import beam_search

MODELS = [gru_luong, post_norm_transformer]
TOLERANCE = 1e-4
NUM_STEPS = 14
Array = np.ndarray[Any, np.dtype[Any]]
NUMPY_DTYPES = {FLOAT32: np.float32, INT32: np.int32, INT64: np.int64}
ORT_TYPES = {FLOAT32: "tensor(float)", INT32: "tensor(int32)", INT64: "tensor(int64)"}


@functools.cache
def sources() -> list[list[int]]:
    """Three sentences of different lengths, the longest not the last."""
    tokenizer = common.tokenizer()
    encoded = sorted(([*tokenizer.encode(text), END_ID] for text in common.sentences()), key=len)
    return [encoded[20], encoded[150], encoded[80]]


@dataclass
class Row:
    """A hypothesis of a request, and the outputs of the step graph for it at each step; it joins the batch at step ``start``."""

    request: int
    start: int = 0
    tokens: list[int] = field(default_factory=list)
    log_probs: list[Array] = field(default_factory=list)
    attention: list[Array] = field(default_factory=list)


def log_softmax(logits: Array) -> Array:
    return torch.from_numpy(logits).log_softmax(-1).numpy()


class Driver:
    """Runs a model's graphs, from its manifest only."""

    def __init__(self, model: ModuleType) -> None:
        self.manifest: manifest_pb2.Manifest = model.describe()
        self.module = model.build_module()
        variant = self.manifest.variants[0]
        self.encode_graph, self.step_graph = variant.encode, variant.steps[0].graph
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.models = model.build_graphs(self.module)
        self.sessions = {
            name: onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
            for name, proto in self.models.items()
        }

    def run(self, graph: manifest_pb2.Graph, feeds: dict[str, Array]) -> dict[str, Array]:
        given = {one.name: np.ascontiguousarray(feeds[one.name], NUMPY_DTYPES[one.dtype]) for one in graph.inputs}
        names = [one.name for one in graph.outputs]
        return dict(zip(names, self.sessions[graph.file].run(names, given), strict=True))

    def decode(self, requests: list[list[int]], rows: list[Row], *, extra_source: int = 0, garbage: float = 0.0) -> list[Row]:
        """Greedy search of ``rows``, in their order; a request's second row takes the second-best token first.

        Rows that end leave the batch, and the others change places; a row that has not joined is run, but its outputs are
        dropped. Sources are padded by ``extra_source`` more than they need. ``garbage`` is the content of states where nothing has
        been written: beyond each source's end (if it is not 0), and in the caches.
        """
        lengths = np.array([len(source) for source in requests])
        source = np.full((len(requests), lengths.max() + extra_source), PAD_ID)
        for index, tokens in enumerate(requests):
            source[index, : len(tokens)] = tokens
        encoded = self.run(self.encode_graph, {"source": source, "source_length": lengths})
        live, states = list(rows), {}
        request_of_row = np.array([row.request for row in live])
        for state in self.manifest.states:
            is_hypothesis = state.scope == manifest_pb2.SCOPE_HYPOTHESIS
            if state.encode_output:
                value = encoded[state.encode_output]
                if garbage and state.growing_axis == "source":
                    value = value.copy()
                    value[np.arange(value.shape[1]) >= lengths[:, None]] = garbage
                states[state.name] = value[request_of_row] if is_hypothesis else value
            else:
                sizes = {"row": len(live), "request": len(requests), "target": CAPACITY}
                shape = [int(axis) if axis.isdecimal() else sizes[axis] for axis in state.axes]
                states[state.name] = np.full(shape, garbage if state.growing_axis else 0.0, np.float32)
        ranks = [sum(other.request == row.request for other in live[:index]) for index, row in enumerate(live)]
        for step in range(NUM_STEPS + max(row.start for row in rows)):
            out = self.run(
                self.step_graph,
                {
                    "token": np.array([[BEGIN_ID, *row.tokens][-1] for row in live]),
                    "position": np.array([len(row.tokens) for row in live]),
                    "source_length": lengths,
                    "request_of_row": np.array([row.request for row in live]),
                    **states,
                },
            )
            scores = out["log_probs"] if "log_probs" in out else log_softmax(out["logits"])
            for index, row in enumerate(live):
                if row.start > step:
                    continue
                row.log_probs.append(scores[index])
                if self.manifest.HasField("attention"):
                    row.attention.append(out[self.manifest.attention.output][index])
                rank = ranks[index] if step == 0 else 0
                row.tokens.append(int(np.argsort(-scores[index], kind="stable")[rank]))
            joined = np.array([row.start <= step for row in live])
            kept = [index for index, row in enumerate(live) if row.tokens[-1:] != [END_ID] and len(row.tokens) < NUM_STEPS]
            kept = kept[1:] + kept[:1]
            live = [live[index] for index in kept]
            for state in self.manifest.states:
                if state.step_output:
                    following = out[state.step_output]
                    is_kept = joined.reshape(-1, *[1] * (following.ndim - 1))
                    states[state.name] = np.where(is_kept, following, states[state.name])
                if state.scope == manifest_pb2.SCOPE_HYPOTHESIS:
                    states[state.name] = states[state.name][kept]
            if not live:
                break
        return rows


@functools.cache
def driver(model: ModuleType) -> Driver:
    return Driver(model)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: the models are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=MODELS, ids=lambda model: model.MODEL_ID)
def driven(request: pytest.FixtureRequest) -> Driver:
    return driver(request.param)


@torch.no_grad()
def by_pytorch(module: Any, source: list[int], tokens: list[int]) -> tuple[Array, list[Array]]:
    """log_probs (T_tgt, V) and attention of each layer (heads, T_tgt, T_src): one sentence, no padding, no cache."""
    src, tgt = torch.tensor([source]), torch.tensor([[BEGIN_ID, *tokens[:-1]]])
    hidden, attention = module.decode(module.encode(src), src, tgt)
    return module.project(hidden)[0].log_softmax(-1).numpy(), [layer[0].numpy() for layer in attention]


def test_graphs_are_what_the_manifest_declares(driven: Driver) -> None:
    graphs = [driven.encode_graph, driven.step_graph]
    assert set(driven.models) == {graph.file for graph in graphs}
    for graph in graphs:
        session = driven.sessions[graph.file]
        assert len(driven.models[graph.file].SerializeToString()) < 2**20
        for declared, found in ((graph.inputs, session.get_inputs()), (graph.outputs, session.get_outputs())):
            assert [one.name for one in declared] == [one.name for one in found]
            for tensor, one in zip(declared, found, strict=True):
                assert one.type == ORT_TYPES[tensor.dtype]
                assert len(one.shape) == len(tensor.axes)
                for axis, size in zip(tensor.axes, one.shape, strict=True):
                    assert isinstance(size, str) != axis.isdecimal(), (tensor.name, axis, size)
                    assert not axis.isdecimal() or size == int(axis)
                    assert axis.isdecimal() or declared is graph.outputs or size == axis


def test_states_and_limits_fit_the_graphs(driven: Driver) -> None:
    manifest = driven.manifest
    inputs = {one.name: one for one in driven.step_graph.inputs}
    encoded = {one.name: one for one in driven.encode_graph.outputs}
    following = {one.name: one for one in driven.step_graph.outputs}
    for state in manifest.states:
        assert list(inputs[state.name].axes) == list(state.axes)
        assert state.axes[0] == ("row" if state.scope == manifest_pb2.SCOPE_HYPOTHESIS else "request")
        assert not state.encode_output or list(encoded[state.encode_output].axes[1:]) == list(state.axes[1:])
        assert not state.step_output or list(following[state.step_output].axes) == list(state.axes)
        assert not state.growing_axis or (state.growing_axis in state.axes and state.capacity == CAPACITY)
    assert [one.name for one in manifest.variants] == ["fp32"]
    assert manifest.variants[0].device == manifest_pb2.DEVICE_CPU
    assert max(manifest.limits.max_source_tokens, manifest.limits.max_target_tokens) < CAPACITY
    assert manifest.vocabulary.size == VOCAB_SIZE == common.tokenizer().get_piece_size()
    assert manifest.vocabulary.sentencepiece_file in common.extra_files(manifest.model_id)
    assert max(len(source) for source in sources()) <= CAPACITY


def test_shuffled_rows_answer_as_pytorch_does(driven: Driver) -> None:
    rows = driven.decode(sources(), [Row(2), Row(0), Row(1), Row(2)])
    assert rows[0].tokens != rows[3].tokens
    assert len({len(row.tokens) for row in rows}) > 1, "no row left the batch early"
    for row in rows:
        source = sources()[row.request]
        log_probs, attention = by_pytorch(driven.module, source, row.tokens)
        assert np.abs(np.stack(row.log_probs) - log_probs).max() < TOLERANCE
        assert bool(attention) == driven.manifest.HasField("attention")
        if attention:
            weights = np.stack(row.attention)
            assert np.abs(weights[:, : len(source)] - attention[0][0]).max() < TOLERANCE
            assert not weights[:, len(source) :].any()
            assert np.abs(weights.sum(-1) - 1).max() < TOLERANCE
    for row in rows[:3]:
        (hypothesis,) = beam_search(driven.module, sources()[row.request], beam_size=1, max_tokens=NUM_STEPS).hypotheses
        assert row.tokens == hypothesis.tokens


def test_rows_at_different_positions_share_a_step(driven: Driver) -> None:
    rows = driven.decode(sources(), [Row(2, start=3), Row(0), Row(1, start=1)], garbage=1e3)
    for row in rows:
        log_probs, _ = by_pytorch(driven.module, sources()[row.request], row.tokens)
        assert np.abs(np.stack(row.log_probs) - log_probs).max() < TOLERANCE
        (hypothesis,) = beam_search(driven.module, sources()[row.request], beam_size=1, max_tokens=NUM_STEPS).hypotheses
        assert row.tokens == hypothesis.tokens


def test_unwritten_state_changes_nothing(driven: Driver) -> None:
    plain = driven.decode(sources(), [Row(2), Row(0), Row(1)])
    dirty = driven.decode(sources(), [Row(2), Row(0), Row(1)], garbage=1e3)
    for one, other in zip(plain, dirty, strict=True):
        assert one.tokens == other.tokens
        assert np.array_equal(np.stack(one.log_probs), np.stack(other.log_probs))


def test_batch_mates_and_padding_change_rounding_only(driven: Driver) -> None:
    together = driven.decode(sources(), [Row(2), Row(0), Row(1)], extra_source=3)
    for row in together:
        (alone,) = driven.decode([sources()[row.request]], [Row(0)])
        assert alone.tokens == row.tokens
        assert np.abs(np.stack(alone.log_probs) - np.stack(row.log_probs)).max() < TOLERANCE


def test_modules_are_the_same_in_every_build(driven: Driver) -> None:
    model = next(one for one in MODELS if driven.manifest.model_id == one.MODEL_ID)
    again = model.build_module().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in driven.module.state_dict().items())


@pytest.mark.parametrize("beam_size", [1, 3])
def test_answers_vary_and_some_end(driven: Driver, beam_size: int) -> None:
    tokenizer = common.tokenizer()
    encoded = [[*tokenizer.encode(text), END_ID] for text in sorted(common.sentences(), key=len)[:160:20]]
    answers = [beam_search(driven.module, one, beam_size=beam_size, max_tokens=16).hypotheses[0].tokens for one in encoded]
    num_ended = sum(tokens[-1] == END_ID for tokens in answers)
    assert 2 <= num_ended < len(answers)
    assert len({tuple(tokens) for tokens in answers}) >= len(answers) - 2
    assert np.mean([len(set(tokens)) for tokens in answers]) > 4
