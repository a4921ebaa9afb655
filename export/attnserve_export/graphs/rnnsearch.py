# SPDX-License-Identifier: Apache-2.0
"""Encode and step graphs of RNNsearch in float32: the module's own step, on declared state.

A request's state is its annotations and alignment keys (2 U_a h_j); a hypothesis' state is one vector. On the CPU the step reads
the sources up to the longest one, rounded up to whole blocks: further blocks add only zeros to its sums, in the same order, so an
answer does not depend on its batch mates, and the cost of short sources does not depend on the capacity. A CUDA graph has fixed
shapes, so it reads the whole capacity. Terms that depend on the last token alone come from a table over the vocabulary, see
:class:`TokenTable`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnserve.v1 import manifest_pb2
from attnserve_export.graphs.spec import (
    FLOAT32,
    INT32,
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
from attnserve_export.layers.recurrent import onnx_recurrent, stored_biases
from attnserve_export.models.rnnsearch import EncodedSource, RnnSearch, maxout

BLOCK = 32
"""A multiple of the block size of ONNX Runtime's softmax and matrix product (measured: the last bits are equal from 32 on)."""
MAX_BEAM = 8


class EncodeGraph(nn.Module):
    """``source`` int64 (B, L), ``source_length`` int32 (B) -> annotations, alignment keys, and the decoder's first state."""

    def __init__(self, model: RnnSearch) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, source_length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns memory (B, L, 2 d_encoder) and key (B, L, d_alignment), zero after a source's end, and state (B, d_decoder)."""
        model = self.model
        out, last = onnx_recurrent(
            [model.reader, model.backward_reader], model.embed(source).transpose(0, 1), source_length, "bidirectional"
        )
        memory = out.permute(2, 0, 1, 3).flatten(2)
        return memory, model.source(memory, source == 0).key, torch.tanh(model.initial(last[0][1]))


class StepGraph(nn.Module):
    """One decode step of S rows of R requests: row i belongs to request ``request_of_row[i]``, or without it to request i.

    Args:
        model: the module.
        candidates: number of candidates of each row; 0 for none.
        is_fixed: whether the step reads the whole capacity, for any source length.
    """

    deep_state: Tensor
    deep_context: Tensor

    def __init__(self, model: RnnSearch, *, candidates: int, is_fixed: bool) -> None:
        super().__init__()
        self.model, self.candidates, self.is_fixed = model, candidates, is_fixed
        d_state, d_token = model.config.d_decoder, model.config.d_embedding
        of_state, of_token, of_context = model.deep.weight.split([d_state, d_token, 2 * model.config.d_encoder], 1)
        self.register_buffer("deep_state", of_state.clone())
        self.register_buffer("deep_context", of_context.clone())
        self.of_token = TokenTable(
            torch.cat([model.token_gates.weight, of_token]), torch.cat([model.token_gates.bias, model.deep.bias])
        )

    def forward(
        self, token: Tensor, source_length: Tensor, request_of_row: Tensor | None, memory: Tensor, key: Tensor, state: Tensor
    ) -> tuple[Tensor, ...]:
        """Runs the step on a whole batch.

        Args:
            token: last token of each row, int64 (S).
            source_length: int32 (R).
            request_of_row: int64 (S); None if each row has its own request (S = R).
            memory: (R, capacity, 2 d_encoder).
            key: (R, capacity, d_alignment).
            state: (S, d_decoder).

        Returns:
            The outputs in the order of the spec: scores, attention (S, capacity), next state (S, d_decoder).
        """
        model, capacity = self.model, memory.shape[1]
        if not self.is_fixed:
            reach = int(((source_length.max() + (BLOCK - 1)) & -BLOCK).item())  # the next multiple of a power of two
            torch._check(reach >= BLOCK)
            torch._check(reach <= capacity)
            memory, key = memory[:, :reach], key[:, :reach]
        if request_of_row is not None:
            memory, key, source_length = (each.index_select(0, request_of_row) for each in (memory, key, source_length))
        is_hidden = torch.arange(memory.shape[1], dtype=torch.int32)[None] >= source_length[:, None]
        token_gates, token_deep = self.of_token(model.embedding.weight, token).split(
            [3 * model.config.d_decoder, 2 * model.config.d_embedding], 1
        )
        following, context, weights = model.step(token_gates, state, EncodedSource(memory, key, is_hidden))
        deep = nn.functional.linear(following, self.deep_state) + nn.functional.linear(context, self.deep_context)
        logits = model.project(maxout(deep + token_deep))
        attention = weights if self.is_fixed else nn.functional.pad(weights, (0, capacity - memory.shape[1]))
        return (*scores(logits, self.candidates), attention, following)


def rnnsearch_states(model: RnnSearch, max_source: int, max_target: int) -> list[manifest_pb2.State]:
    """Declares the state: annotations and alignment keys of each request, one vector of each hypothesis."""
    config = model.config
    shared = [
        manifest_pb2.State(
            name=name,
            scope=manifest_pb2.SCOPE_REQUEST,
            axes=["request", "source", str(size)],
            encode_output=name,
            growing_axis="source",
            capacity=-(-(max_source + 1) // BLOCK) * BLOCK,
        )
        for name, size in (("memory", 2 * config.d_encoder), ("key", config.d_alignment))
    ]
    own = manifest_pb2.State(
        name="state",
        scope=manifest_pb2.SCOPE_HYPOTHESIS,
        axes=["row", str(config.d_decoder)],
        encode_output="state",
        step_output="next_state",
    )
    return [*shared, own]


def rnnsearch_variants(model: RnnSearch, states: list[manifest_pb2.State]) -> list[VariantSpec]:
    """fp32 for the CPU and for CUDA: one step graph for greedy batches and one for beams each. All return the alignment, which a
    step computes in any case.
    """
    outputs = [tensor(state.encode_output, FLOAT32, "request", *state.axes[1:]) for state in states]
    encode = GraphSpec("encode.onnx", EncodeGraph(model), source_inputs(), outputs)
    return [
        VariantSpec("fp32", device, encode, [_step(model, states, group, is_fixed) for group in (1, MAX_BEAM)])
        for device, is_fixed in ((manifest_pb2.DEVICE_CPU, False), (manifest_pb2.DEVICE_CUDA, True))
    ]


def _step(model: RnnSearch, states: list[manifest_pb2.State], group: int, is_fixed: bool) -> GraphSpec:
    is_indexed = group > 1
    first, capacity = "request" if is_indexed else "row", str(states[0].capacity)
    candidates = 2 * group if is_indexed or is_fixed else 0  # on CUDA only the best candidates are copied to the host
    inputs: list[manifest_pb2.Tensor | None] = [
        tensor("token", INT64, "row"),
        tensor("source_length", INT32, first),
        tensor("request_of_row", INT64, "row") if is_indexed else None,
        *(tensor(state.name, FLOAT32, first, capacity, state.axes[2]) for state in states[:2]),
        tensor("state", FLOAT32, *states[2].axes),
    ]
    outputs = [
        *score_outputs(model.config.vocab_size, candidates),
        tensor("attention", FLOAT32, "row", capacity),
        tensor("next_state", FLOAT32, *states[2].axes),
    ]
    module = StepGraph(model, candidates=candidates, is_fixed=is_fixed)
    file = f"step_{group}{'_cuda' if is_fixed else ''}.onnx"
    return GraphSpec(file, module, inputs, outputs, max_rows_of_request=group, gives_attention=True)


def _attention(model: RnnSearch) -> manifest_pb2.AttentionOutput:
    return manifest_pb2.AttentionOutput(
        output="attention", meaning="The soft alignment: which source pieces a target piece was made from."
    )


def _restore(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Recovers the parameters of :class:`RnnSearch` from the constants of a bundle's graphs, which hold some in another form.

    Args:
        stored: constants of all graphs by name.

    Returns:
        ``stored`` and what differs in it: ``align_score`` (doubled by ``additive_attention``), the encoder's biases (in ONNX's
        order of gates, see ``onnx_recurrent``), ``token_gates`` and ``deep`` (cut and joined by :class:`StepGraph`).

    Raises:
        KeyError, ValueError: a constant is missing.
    """
    d_deep = len(stored["deep_state"])
    token_gates, of_token = stored["of_token.weight"].split([len(stored["of_token.weight"]) - d_deep, d_deep])
    token_bias, deep_bias = stored["of_token.bias"].split([len(token_gates), d_deep])
    deep = torch.cat([stored["deep_state"], of_token, stored["deep_context"]], 1)
    (doubled,) = (value for name, value in stored.items() if name.startswith("unsqueeze") and value.shape[1:] == (1,))
    biases = stored_biases(stored, ["reader", "backward_reader"])
    return stored | biases | {
        "align_score": doubled[:, 0] / 2,
        "token_gates.weight": token_gates, "token_gates.bias": token_bias, "deep.weight": deep, "deep.bias": deep_bias,
    }  # fmt: skip


GRAPHS = Graphs(
    paper=manifest_pb2.Paper(
        title="Neural Machine Translation by Jointly Learning to Align and Translate",
        authors="Bahdanau et al.",
        year=2015,
        url="https://arxiv.org/abs/1409.0473",
    ),
    states=rnnsearch_states,
    variants=rnnsearch_variants,
    parts={
        "embedding": "embedding",
        "GRU": "encoder",
        "align_memory": "alignment",
        "align_state": "alignment",
        "initial": "recurrence",
        "of_token": "embedding",
        "state_gates": "recurrence",
        "context_gates": "recurrence",
        "deep_state": "deep output",
        "deep_context": "deep output",
        "output_layer": "output",
    },
    restore=_restore,
    is_within_one=lambda name: name in ("memory", "state", "next_state"),
    attention=_attention,
)
