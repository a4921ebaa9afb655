# SPDX-License-Identifier: Apache-2.0
"""RNNsearch and the sequence-to-sequence model in PyTorch: lengths, padding, causality, and the step against the whole sequence."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from attnserve_export.layers import recurrent
from attnserve_export.layers.attention import additive_attention
from attnserve_export.layers.recurrent import gru_step, layer_weights, lstm_step, read_padded, reverse_rows
from attnserve_export.models.rnnsearch import RnnSearch
from attnserve_export.models.seq2seq import Seq2Seq
from attnserve_export.recipe import load_recipe
from attnserve_export.registry import build_model
from attnserve_export.training.loss import SmoothedCrossEntropy
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

VOCAB_SIZE = 60
LENGTHS = (9, 4, 7, 1, 8)
RNN_SIZES = {"d_embedding": 12, "d_encoder": 10, "d_decoder": 14, "d_alignment": 11}
SEQ_SIZES = {"d_embedding": 12, "d_hidden": 14, "num_layers": 3}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "rnnsearch": ("rnnsearch", RNN_SIZES),
    "seq2seq": ("seq2seq", SEQ_SIZES),
    "seq2seq of GRUs": ("seq2seq", {**SEQ_SIZES, "cell": "gru"}),
}


def made(name: str) -> Any:
    """A model in evaluation mode whose biases and gates are far from their first values."""
    torch.manual_seed(5)
    model = build_model(MODELS[name][0], VOCAB_SIZE, MODELS[name][1])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval().requires_grad_(False)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return made(request.param)


def sources(width: int = 9) -> Tensor:
    """Five sources of different lengths, padded to ``width``."""
    tokens = torch.randint(4, VOCAB_SIZE, (5, 9), generator=torch.Generator().manual_seed(1))
    padded = torch.zeros(5, width, dtype=torch.int64)
    for row, length in enumerate(LENGTHS):
        padded[row, :length] = tokens[row, :length]
    return padded


def targets(seed: int = 2) -> Tensor:
    return torch.randint(4, VOCAB_SIZE, (5, 6), generator=torch.Generator().manual_seed(seed))


def assert_padding_changes_nothing(model: Any) -> None:
    together = model(sources(13), targets())
    for row, length in enumerate(LENGTHS):
        alone = model(sources()[row : row + 1, :length], targets()[row : row + 1])
        assert (alone[0] - together[row]).abs().max() < 2e-6


def test_shapes(model: Any) -> None:
    src, tgt = sources(), targets()
    memory = model.encode(src)
    hidden, alignments = model.decode(memory, src, tgt)
    assert hidden.shape == (5, 6, 12)
    assert model.output_weight.shape == (VOCAB_SIZE, 12)
    assert torch.equal(model.project(hidden), hidden @ model.output_weight.T)
    assert torch.equal(model(src, tgt), hidden)
    if isinstance(model, RnnSearch):
        assert memory.shape == (5, 9, 20)
        assert [each.shape for each in alignments] == [(5, 1, 6, 9)]
    else:
        assert memory.shape == (5, 3, model.config.num_parts, 14)
        assert alignments == []


def test_padding_changes_nothing(model: Any) -> None:
    assert_padding_changes_nothing(model)


def test_padding_that_is_seen_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted faults: gates that padding does not close, and an alignment over padding."""
    with monkeypatch.context() as patch:
        patch.setattr(recurrent, "_SHUT", 0.0)
        for name in ("seq2seq", "seq2seq of GRUs"):
            with pytest.raises(AssertionError):
                assert_padding_changes_nothing(made(name))
    rnnsearch = made("rnnsearch")
    whole = rnnsearch.source
    monkeypatch.setattr(rnnsearch, "source", lambda memory, is_hidden: whole(memory, is_hidden & False))
    with pytest.raises(AssertionError):
        assert_padding_changes_nothing(rnnsearch)


def test_a_backward_reader_that_begins_on_padding_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnserve_export.models.rnnsearch.reverse_rows", lambda x, lengths: x.flip(1))
    with pytest.raises(AssertionError):
        assert_padding_changes_nothing(made("rnnsearch"))


def test_the_future_is_not_seen(model: Any) -> None:
    src, tgt, other = sources(), targets(), targets(3)
    changed = torch.cat([tgt[:, :3], other[:, 3:]], 1)
    one, two = model(src, tgt), model(src, changed)
    assert torch.equal(one[:, :3], two[:, :3])
    assert (one[:, 3:] - two[:, 3:]).abs().amax(-1).min() > 1e-4


def test_steps_give_what_the_whole_sequence_gives(model: Any) -> None:
    src, tgt = sources(), targets()
    memory = model.encode(src)
    expected, alignments = model.decode(memory, src, tgt)
    if isinstance(model, RnnSearch):
        source, state = model.source(memory, src == 0), model.initial_state(memory)
        for position, token in enumerate(tgt.unbind(1)):
            embedded = model.embed(token)
            state, context, weights = model.step(model.token_gates(embedded), state, source)
            assert (model.readout(state, embedded, context) - expected[:, position]).abs().max() < 1e-6
            assert (weights - alignments[0][:, 0, position]).abs().max() < 1e-6
    else:
        states = [list(layer.unbind(1)) for layer in memory.unbind(1)]
        for position, token in enumerate(tgt.unbind(1)):
            of_input, _, input_bias, _ = layer_weights(model.writer_layers[0])
            hidden, states = model.step(torch.nn.functional.linear(model.embed(token), of_input, input_bias), states)
            assert (hidden - expected[:, position]).abs().max() < 1e-6


def test_alignment_is_a_distribution_over_the_source() -> None:
    model, src = made("rnnsearch"), sources(12)
    weights = model.decode(model.encode(src), src, targets())[1][0][:, 0]  # (B, T_tgt, T_src)
    assert (weights.sum(-1) - 1).abs().max() < 1e-6
    is_padding = (src == 0)[:, None].expand_as(weights)
    assert not weights[is_padding].any()
    assert (weights[~is_padding] > 0).all()


def test_additive_attention_is_the_paper_s() -> None:
    generator = torch.Generator().manual_seed(4)
    query, key, score, value = (torch.randn(*shape, generator=generator) for shape in ((3, 7), (3, 5, 7), (7,), (3, 5, 4)))
    is_hidden = torch.arange(5)[None] >= torch.tensor([5, 2, 1])[:, None]
    context, weights = additive_attention(query, 2 * key, score, value, is_hidden)
    for row, length in enumerate((5, 2, 1)):
        energies = torch.stack([score @ torch.tanh(query[row] + key[row, j]) for j in range(length)])
        expected = energies.softmax(0)
        assert torch.allclose(weights[row, :length], expected, atol=1e-6)
        assert torch.allclose(context[row], expected @ value[row, :length], atol=1e-6)


def test_cells_are_pytorch_s() -> None:
    torch.manual_seed(0)
    x, h, c = torch.randn(4, 5), torch.randn(4, 6), torch.randn(4, 6)
    gru, lstm = nn.GRUCell(5, 6), nn.LSTMCell(5, 6)
    linear = nn.functional.linear
    ours = gru_step(linear(x, gru.weight_ih, gru.bias_ih), linear(h, gru.weight_hh, gru.bias_hh), h)
    assert torch.allclose(ours, gru(x, h), atol=1e-6)
    gates = linear(x, lstm.weight_ih, lstm.bias_ih) + linear(h, lstm.weight_hh, lstm.bias_hh)
    for mine, theirs in zip(lstm_step(gates, c), lstm(x, (h, c)), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_rows_are_reversed_within_their_lengths() -> None:
    rows = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9], [5, 0, 0, 0, 0]])
    lengths = torch.tensor([3, 5, 1])
    reversed_rows = reverse_rows(rows, lengths)
    assert reversed_rows.tolist() == [[7, 6, 5, 0, 0], [9, 8, 7, 6, 5], [5, 0, 0, 0, 0]]
    assert torch.equal(reverse_rows(reversed_rows, lengths), rows)
    deep = torch.stack([rows, rows + 100], -1)
    assert torch.equal(reverse_rows(deep, lengths)[..., 1], reversed_rows + 100 * (rows >= 0))


@pytest.mark.parametrize("make", [nn.GRU, nn.LSTM])
def test_padding_in_front_leaves_the_zero_state(make: type[nn.GRU] | type[nn.LSTM]) -> None:
    torch.manual_seed(0)
    layer = make(5, 6, batch_first=True).eval()
    x = torch.randn(2, 7, 5)
    is_padding = torch.arange(7)[None] < torch.tensor([[0], [4]])
    out, last = read_padded(layer, x, is_padding)
    for row, start in ((0, 0), (1, 4)):
        expected, state = layer(x[row : row + 1, start:])
        assert torch.allclose(out[row, start:], expected[0], atol=1e-6)
        for mine, theirs in zip(last, state if isinstance(state, tuple) else (state,), strict=True):
            assert torch.allclose(mine[row], theirs[0, 0], atol=1e-6)


def test_seq2seq_reads_backwards() -> None:
    model = made("seq2seq")
    assert isinstance(model, Seq2Seq)
    src = sources()
    memory = model.encode(src)
    for row, length in enumerate(LENGTHS):
        x = model.embed(src[row : row + 1, :length].flip(1))
        for index, layer in enumerate(model.reader_layers):
            x, state = layer(x)
            for part, value in enumerate(state):
                assert (memory[row, index, part] - value[0, 0]).abs().max() < 1e-6


def test_an_unknown_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="cell"):
        build_model("seq2seq", VOCAB_SIZE, {"cell": "elman"})


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(
        KeyError,
        match="there are cbam, disentangled_nonlocal, nonlocal-video, rnnsearch, sagan, seq2seq, show-attend-tell, transformer",
    ):
        build_model("perceptron", VOCAB_SIZE, {})


@pytest.mark.parametrize("name", MODELS)
def test_one_batch_is_learnt(name: str) -> None:
    torch.manual_seed(0)
    model: Any = build_model(MODELS[name][0], VOCAB_SIZE, {**MODELS[name][1], "dropout": 0.1})
    optimizer, loss = torch.optim.Adam(model.parameters(), lr=0.02), SmoothedCrossEntropy(0.0)
    src, tgt = sources(11), targets()
    losses = []
    for _ in range(60):
        nll, count = loss(model(src, tgt[:, :-1]), tgt[:, 1:], model.output_weight)
        losses.append(nll / count)
        assert all(parameter.grad is not None for parameter in model.parameters())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    assert losses[0] > 3
    assert losses[-1] < 1


def test_both_recipes_train_on_the_same_tokens() -> None:
    one, other = (msgspec.to_builtins(load_recipe(f"{name}-en-de")) for name in ("rnnsearch", "seq2seq"))
    assert one["architecture"] == "rnnsearch"
    assert other["architecture"] == "seq2seq"
    own = {"model_id", "architecture", "model"}
    assert {key: value for key, value in one.items() if key not in own} == {
        key: value for key, value in other.items() if key not in own
    }
    for recipe in (one, other):
        build_model(recipe["architecture"], 100, recipe["model"])
