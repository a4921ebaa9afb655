# SPDX-License-Identifier: Apache-2.0
"""Encode and step graphs of Show, Attend and Tell in float32: the trunk and the annotations, and the module's own step.

A request's state is its annotations and alignment keys; a hypothesis' state is h and c. All images have the same number of
annotations, so nothing is padded. Terms that depend on the last token alone come from a table, see :class:`TokenTable`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnserve.v1 import manifest_pb2
from attnserve_export.graphs.spec import (
    FLOAT32,
    INT64,
    UINT8,
    Graphs,
    GraphSpec,
    VariantSpec,
    score_outputs,
    scores,
    tensor,
)
from attnserve_export.layers import efficientnet
from attnserve_export.layers.output import TokenTable
from attnserve_export.models.show_attend_tell import NUM_CELLS, Annotations, ShowAttendTell

MAX_BEAM = 8


class EncodeGraph(nn.Module):
    """``image`` uint8 (B, 224, 224, 3) -> annotations, alignment keys, and the decoder's first state."""

    mean_of: Tensor

    def __init__(self, model: ShowAttendTell) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean_of", torch.full((1, 1, NUM_CELLS), 1 / NUM_CELLS))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns memory (B, NUM_CELLS, D), D the trunk's width; key (B, NUM_CELLS, d_alignment); hidden and cell (B, d_hidden)."""
        source = self.model.source(self.model.encode(image))
        mean = (self.mean_of @ source.memory).squeeze(
            1
        )  # one product for each image: a reduction's last bits depend on the batch size
        return source.memory, source.key, *self.model.initial_state(mean)


class StepGraph(nn.Module):
    """One decode step of S rows of R requests: row i belongs to request ``request_of_row[i]``, or without it to request i.

    Args:
        model: the module.
        candidates: number of candidates of each row; 0 for none.
    """

    def __init__(self, model: ShowAttendTell, *, candidates: int) -> None:
        super().__init__()
        self.model, self.candidates = model, candidates
        self.of_token = TokenTable(
            torch.cat([model.token_gates.weight, model.deep_token.weight]),
            torch.cat([model.token_gates.bias, model.deep_token.bias]),
        )

    def forward(
        self, token: Tensor, request_of_row: Tensor | None, memory: Tensor, key: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, ...]:
        """Runs the step on a whole batch.

        Args:
            token: last token of each row, int64 (S).
            request_of_row: int64 (S); None if each row has its own request (S = R).
            memory: (R, NUM_CELLS, D).
            key: (R, NUM_CELLS, d_alignment).
            hidden: (S, d_hidden).
            cell: (S, d_hidden).

        Returns:
            The outputs in the order of the spec: scores, attention (S, NUM_CELLS), next hidden state and next cell (S, d_hidden).
        """
        model = self.model
        if request_of_row is not None:
            memory, key = memory.index_select(0, request_of_row), key.index_select(0, request_of_row)
        token_gates, deep_token = self.of_token(model.embedding.weight, token).split(
            [4 * model.config.d_hidden, model.config.d_embedding], 1
        )
        step = model.step(token_gates, hidden, cell, Annotations(memory, key))
        logits = model.next_logits(model.readout(deep_token, step.hidden, step.context))
        return (*scores(logits, self.candidates), step.weights, step.hidden, step.cell)


def show_attend_tell_states(model: ShowAttendTell, max_source: int, max_target: int) -> list[manifest_pb2.State]:
    """Declares the state: annotations and alignment keys of each request, h and c of each hypothesis."""
    shared = [
        manifest_pb2.State(
            name=name, scope=manifest_pb2.SCOPE_REQUEST, axes=["request", str(NUM_CELLS), str(size)], encode_output=name
        )
        for name, size in (("memory", efficientnet.WIDTH), ("key", model.config.d_alignment))
    ]
    own = [
        manifest_pb2.State(
            name=name,
            scope=manifest_pb2.SCOPE_HYPOTHESIS,
            axes=["row", str(model.config.d_hidden)],
            encode_output=name,
            step_output=f"next_{name}",
        )
        for name in ("hidden", "cell")
    ]
    return [*shared, *own]


def show_attend_tell_variants(model: ShowAttendTell, states: list[manifest_pb2.State]) -> list[VariantSpec]:
    """fp32: one step graph for greedy batches, and one with candidates for beams; CUDA uses the latter for both.

    All return the attention, which a step computes in any case.
    """
    size = str(efficientnet.IMAGE_SIZE)
    outputs = [tensor(state.encode_output, FLOAT32, "request", *state.axes[1:]) for state in states]
    encode = GraphSpec("encode.onnx", EncodeGraph(model), [tensor("image", UINT8, "request", size, size, "3")], outputs)
    greedy, beam = (_step(model, states, group) for group in (1, MAX_BEAM))
    return [
        VariantSpec("fp32", manifest_pb2.DEVICE_CPU, encode, [greedy, beam]),
        VariantSpec("fp32", manifest_pb2.DEVICE_CUDA, encode, [beam]),
    ]


def _step(model: ShowAttendTell, states: list[manifest_pb2.State], group: int) -> GraphSpec:
    is_indexed = group > 1
    candidates, first = (2 * group, "request") if is_indexed else (0, "row")
    inputs: list[manifest_pb2.Tensor | None] = [
        tensor("token", INT64, "row"),
        tensor("request_of_row", INT64, "row") if is_indexed else None,
        *(tensor(state.name, FLOAT32, first, *state.axes[1:]) for state in states[:2]),
        *(tensor(state.name, FLOAT32, *state.axes) for state in states[2:]),
    ]
    outputs = [
        *score_outputs(model.config.vocab_size, candidates),
        tensor("attention", FLOAT32, "row", str(NUM_CELLS)),
        *(tensor(state.step_output, FLOAT32, *state.axes) for state in states[2:]),
    ]
    module = StepGraph(model, candidates=candidates)
    return GraphSpec(f"step_{group}.onnx", module, inputs, outputs, max_rows_of_request=group, gives_attention=True)


def _restore(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Recovers the parameters of :class:`ShowAttendTell` from the constants of a bundle's graphs, which hold some in another form.

    Args:
        stored: constants of all graphs by name; the function adds to it.

    Returns:
        ``stored`` with ``align_score`` (doubled by ``additive_attention``), and ``token_gates`` and ``deep_token`` (joined as
        ``of_token`` by :class:`StepGraph`).

    Raises:
        KeyError, ValueError: a constant is missing.
    """
    (doubled,) = (value for name, value in stored.items() if name.startswith("unsqueeze") and value.shape[1:] == (1,))
    stored["align_score"] = doubled[:, 0] / 2
    gates = 4 * stored["state_gates.weight"].shape[1]
    for kind in ("weight", "bias"):
        stored[f"token_gates.{kind}"], stored[f"deep_token.{kind}"] = stored[f"of_token.{kind}"].tensor_split([gates])
    return stored


def _attention(model: ShowAttendTell) -> manifest_pb2.AttentionOutput:
    del model
    return manifest_pb2.AttentionOutput(
        output="attention", meaning="alpha_ti of equation 4: the attention over the image for each word"
    )


GRAPHS = Graphs(
    paper=manifest_pb2.Paper(
        title="Show, Attend and Tell: Neural Image Caption Generation with Visual Attention",
        authors="Xu et al.",
        year=2015,
        url="https://arxiv.org/abs/1502.03044",
    ),
    states=show_attend_tell_states,
    variants=show_attend_tell_variants,
    parts={
        "encoder": "encoder",
        "annotation_norm": "encoder",
        "align_memory": "alignment",
        "align_state": "alignment",
        "initial": "recurrence",
        "of_token": "embedding",
        "gate": "recurrence",
        "state_gates": "recurrence",
        "context_gates": "recurrence",
        "deep_state": "deep output",
        "deep_context": "deep output",
        "output_layer": "output",
    },
    restore=_restore,
    is_within_one=lambda name: name in ("hidden", "next_hidden"),
    attention=_attention,
)
