# SPDX-License-Identifier: Apache-2.0
"""Encode and step graphs of the sequence-to-sequence model in float32.

The encoder returns only the first states of the hypotheses: there is no request state. The last token's term of the first layer
comes from a table over the vocabulary, see :class:`TokenTable`.
"""

from __future__ import annotations

from torch import Tensor, nn

from attnserve.v1 import manifest_pb2
from attnserve_export.graphs.spec import (
    FLOAT32,
    INT64,
    Graphs,
    GraphSpec,
    VariantSpec,
    score_outputs,
    scores,
    source_inputs,
    tensor,
)
from attnserve_export.layers.output import TokenTable
from attnserve_export.layers.recurrent import layer_weights, onnx_recurrent, stored_biases
from attnserve_export.models.seq2seq import Seq2Seq

MAX_BEAM = 8


class EncodeGraph(nn.Module):
    """``source`` int64 (B, L), ``source_length`` int32 (B) -> the last states of all layers, in the order of the spec."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, source_length: Tensor) -> tuple[Tensor, ...]:
        """The operator's reverse direction starts at each source's end. Returns (B, d_hidden) for each layer and part."""
        x, parts = self.model.embed(source).transpose(0, 1), []  # (L, B, d_embedding)
        for layer in self.model.reader_layers:
            out, last = onnx_recurrent([layer], x, source_length, "reverse")
            x = out[:, 0]
            parts += [part[0] for part in last]
        return tuple(parts)


class StepGraph(nn.Module):
    """One decode step of S rows. It reads no request state, so a row may belong to any request."""

    def __init__(self, model: Seq2Seq, *, candidates: int) -> None:
        super().__init__()
        self.model, self.candidates = model, candidates
        of_input, _, input_bias, _ = layer_weights(model.writer_layers[0])
        self.of_token = TokenTable(of_input, input_bias)

    def forward(self, token: Tensor, request_of_row: Tensor | None, *state: Tensor) -> tuple[Tensor, ...]:
        """``state`` is, for each layer, its parts (S, d_hidden). Returns the outputs in the order of the spec."""
        model, num_parts = self.model, self.model.config.num_parts
        states = [list(state[at : at + num_parts]) for at in range(0, len(state), num_parts)]
        hidden, following = model.step(self.of_token(model.embedding.weight, token), states)
        return (*scores(model.project(hidden), self.candidates), *(part for parts in following for part in parts))


def seq2seq_states(model: Seq2Seq, max_source: int, max_target: int) -> list[manifest_pb2.State]:
    """Declares the state: h and c of each layer (h alone of a GRU), all of scope hypothesis."""
    names = [f"{part}_{index}" for index in range(model.config.num_layers) for part in ("h", "c")[: model.config.num_parts]]
    return [
        manifest_pb2.State(
            name=name,
            scope=manifest_pb2.SCOPE_HYPOTHESIS,
            axes=["row", str(model.config.d_hidden)],
            encode_output=name,
            step_output=f"next_{name}",
        )
        for name in names
    ]


def seq2seq_variants(model: Seq2Seq, states: list[manifest_pb2.State]) -> list[VariantSpec]:
    """fp32 for the CPU: one step graph for greedy batches, and one with candidates for beams. CUDA uses the latter for both."""
    outputs = [tensor(state.encode_output, FLOAT32, "request", *state.axes[1:]) for state in states]
    encode = GraphSpec("encode.onnx", EncodeGraph(model), source_inputs(), outputs)
    greedy, beam = (_step(model, states, group) for group in (1, MAX_BEAM))
    return [
        VariantSpec("fp32", manifest_pb2.DEVICE_CPU, encode, [greedy, beam]),
        VariantSpec("fp32", manifest_pb2.DEVICE_CUDA, encode, [beam]),
    ]


def _step(model: Seq2Seq, states: list[manifest_pb2.State], group: int) -> GraphSpec:
    candidates = 2 * group if group > 1 else 0
    inputs: list[manifest_pb2.Tensor | None] = [
        tensor("token", INT64, "row"),
        tensor("request_of_row", INT64, "row") if group > 1 else None,  # not read: declares that rows may belong to any request
        *(tensor(state.name, FLOAT32, *state.axes) for state in states),
    ]
    outputs = [
        *score_outputs(model.config.vocab_size, candidates),
        *(tensor(state.step_output, FLOAT32, *state.axes) for state in states),
    ]
    return GraphSpec(f"step_{group}.onnx", StepGraph(model, candidates=candidates), inputs, outputs, max_rows_of_request=group)


def _restore(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Recovers the parameters of :class:`Seq2Seq` from the constants of a bundle's graphs, which hold some in another form.

    Args:
        stored: constants of all graphs by name.

    Returns:
        ``stored`` and what differs in it: the biases of the encoder (in ONNX's order of gates, see ``onnx_recurrent``), and the
        input weights of the decoder's first layer, which :class:`StepGraph` names ``of_token``.

    Raises:
        KeyError, ValueError: a constant is missing.
    """
    readers = sorted({name.rpartition(".")[0] for name in stored if name.startswith("reader.")})
    first = {"writer.0.weight_ih_l0": stored["of_token.weight"], "writer.0.bias_ih_l0": stored["of_token.bias"]}
    return stored | stored_biases(stored, readers) | first


GRAPHS = Graphs(
    paper=manifest_pb2.Paper(
        title="Sequence to Sequence Learning with Neural Networks",
        authors="Sutskever et al.",
        year=2014,
        url="https://arxiv.org/abs/1409.3215",
    ),
    states=seq2seq_states,
    variants=seq2seq_variants,
    parts={
        "embedding": "embedding",
        "of_token": "embedding",
        "LSTM": "encoder",
        "GRU": "encoder",
        "writer": "decoder",
        "readout": "output",
        "output_layer": "output",
    },
    restore=_restore,
    is_within_one=lambda name: name.removeprefix("next_").startswith("h_"),
)
