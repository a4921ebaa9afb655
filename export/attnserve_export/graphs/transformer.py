# SPDX-License-Identifier: Apache-2.0
"""Encode and step graphs of the Transformer, for the CPU (float32) and for CUDA (float16), from one trained module.

Both run the same sub-layers on the module's own weights; the only difference from ``models/transformer.py`` is where attention
reads its keys and values. Activations of a step keep the shape (S, 1, d_model), so no Reshape is needed between the operators.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from attnserve.v1 import manifest_pb2
from attnserve_export.graphs.attention_ops import (
    cross_weights,
    encode_attention,
    masked_encode_attention,
    step_cross_attention,
    step_self_attention,
)
from attnserve_export.graphs.spec import (
    FLOAT16,
    FLOAT32,
    INT32,
    INT64,
    Graphs,
    GraphSpec,
    VariantSpec,
    best,
    best_outputs,
    score_outputs,
    scores,
    source_inputs,
    tensor,
)
from attnserve_export.models.transformer import DecoderLayer, Transformer

GROUPS = (1, 5, 8)
"""Maximum number of hypotheses of a request, for each step graph."""
BLOCK_GROUPS = (4, 5, 8)
"""Numbers of hypotheses of each request, for each step graph that takes rows in blocks."""
ATTENTION, BEST, BLOCK = "attention", "best", "block"
"""Kinds of step graph: with attention as a further output; with logits as the only output, which greedy search needs; or for blocks
of rows, with the best candidates as the only output, which beam search needs."""


class EncodeGraph(nn.Module):
    """``source`` int64 (B, L), ``source_length`` int32 (B) -> keys and values of every decoder layer, each (B, H, L, D)."""

    def __init__(self, model: Transformer, *, is_for_cuda: bool = False) -> None:
        super().__init__()
        self.model = model
        self.attend = masked_encode_attention if is_for_cuda else encode_attention

    def forward(self, source: Tensor, source_length: Tensor) -> tuple[Tensor, ...]:
        """Returns cross_key_0, cross_value_0, cross_key_1, ..."""
        model, last = self.model, source_length - 1
        x = model.embedding(source) * math.sqrt(model.config.d_model) + model.positions[: source.shape[1]]
        for layer in model.encoder_layers:
            attention = layer.self_attention
            x = x + attention.output(self.attend(attention.qkv(layer.self_norm(x)), last, attention.num_heads))
            x = x + layer.feed_forward(layer.ff_norm(x))
        memory = model.encoder_norm(x)
        return tuple(part for layer in model.decoder_layers for part in layer.cross_attention.memory_heads(memory))


class StepGraph(nn.Module):
    """One decode step of S rows of R requests, at most ``group`` rows a request.

    With ``group`` 1, row i belongs to request i; in blocks, row r * G + j to request r. Otherwise ``rows_of_request`` (R, G) and
    ``place_of_row`` (S) map the rows to the requests' query heads and back.
    """

    def __init__(self, model: Transformer, *, group: int, gives: str, candidates: int, is_for_cuda: bool = False) -> None:
        super().__init__()
        self.model, self.group, self.candidates, self.is_for_cuda = model, group, candidates, is_for_cuda
        self.gives_attention, self.gives_log_probs, self.is_blocked = gives == ATTENTION, gives != BEST, gives == BLOCK

    def forward(
        self,
        token: Tensor,
        position: Tensor,
        source_length: Tensor,
        rows_of_request: Tensor | None,
        place_of_row: Tensor | None,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        """``state`` is, for each layer, self_key, self_value, cross_key, cross_value. Returns outputs in the order of the spec."""
        model, last = self.model, source_length - 1
        x = (model.embedding(token) * math.sqrt(model.config.d_model) + model.positions.index_select(0, position)).unsqueeze(
            1
        )  # (S, 1, d_model)
        next_state: list[Tensor] = []
        weights: list[Tensor] = []
        for index, layer in enumerate(model.decoder_layers):
            self_key, self_value, cross_key, cross_value = state[4 * index : 4 * index + 4]
            attention = layer.self_attention
            attended, *caches = step_self_attention(
                attention.qkv(layer.self_norm(x)), self_key, self_value, position, attention.num_heads
            )
            x = x + attention.output(attended)
            memory_heads = (cross_key, cross_value)
            attended, *memory = self._cross(layer, layer.cross_norm(x), memory_heads, last, (rows_of_request, place_of_row))
            x = x + layer.cross_attention.output(attended)
            x = x + layer.feed_forward(layer.ff_norm(x))
            next_state += [*caches, *memory[:2]]
            weights += memory[2:]
        logits = model.project(model.decoder_norm(x)[:, 0]).float()  # (S, V)
        if self.is_blocked:
            return (*best(logits.log_softmax(-1), self.candidates), *next_state)
        outputs = scores(logits, self.candidates, with_log_probs=self.gives_log_probs)
        if self.gives_attention:
            outputs.append(torch.stack(weights, 1).float())  # (S, layers, heads, L)
        return (*outputs, *next_state)

    def _cross(
        self,
        layer: DecoderLayer,
        x: Tensor,
        memory: tuple[Tensor, Tensor],
        last: Tensor,
        indices: tuple[Tensor | None, Tensor | None],
    ) -> list[Tensor]:
        """Returns the attended rows (S, 1, d_model), the memory's keys and values, and, if requested, the weights (S, H, L)."""
        (key, value), (rows_of_request, place_of_row) = memory, indices
        attention = layer.cross_attention
        heads, group, d_head = attention.num_heads, self.group, key.shape[-1]
        query = attention.query(x)
        if self.is_blocked:
            grouped = query.view(-1, group, heads, d_head).transpose(1, 2).reshape(-1, 1, heads * group * d_head)
            attended, *next_memory = step_cross_attention(grouped, key, value, last, heads)
            return [attended.view(-1, heads, group, d_head).transpose(1, 2).reshape(-1, 1, heads * d_head), *next_memory]
        if rows_of_request is None or place_of_row is None:
            attended, *next_memory = step_cross_attention(query, key, value, last, heads, rewrites_last=self.is_for_cuda)
            if not self.gives_attention:
                return [attended, *next_memory]
            return [attended, *next_memory, cross_weights(query.view(-1, heads, 1, 1, d_head), key, last)[:, :, 0, 0]]
        requests, width = rows_of_request.shape[0], heads * d_head
        grouped = query[:, 0].index_select(0, rows_of_request.flatten()).view(requests, group, heads, d_head).transpose(1, 2)
        attended, *next_memory = step_cross_attention(
            grouped.reshape(requests, 1, group * width), key, value, last, heads, rewrites_last=self.is_for_cuda
        )
        attended = attended.view(requests, heads, group, d_head).transpose(1, 2).reshape(requests * group, 1, width)
        outputs = [attended.index_select(0, place_of_row), *next_memory]
        if self.gives_attention:
            weights = cross_weights(grouped.unsqueeze(3), key, last)[:, :, :, 0].transpose(1, 2)  # (R, G, H, L)
            outputs.append(weights.reshape(requests * group, heads, key.shape[2]).index_select(0, place_of_row))
        return outputs


def transformer_states(model: Transformer, max_source: int, max_target: int) -> list[manifest_pb2.State]:
    """Declares the state: self-attention caches of each hypothesis, cross keys and values of each request."""
    config = model.config
    heads, d_head = str(config.num_heads), str(config.d_model // config.num_heads)
    states = []
    for index in range(config.num_decoder_layers):
        for part in ("key", "value"):
            states.append(
                manifest_pb2.State(
                    name=f"self_{part}_{index}",
                    scope=manifest_pb2.SCOPE_HYPOTHESIS,
                    axes=["row", heads, "target", d_head],
                    step_output=f"next_self_{part}_{index}",
                    in_place=True,
                    growing_axis="target",
                    capacity=max_target + 1,
                )
            )
        for part in ("key", "value"):
            name = f"cross_{part}_{index}"
            states.append(
                manifest_pb2.State(
                    name=name,
                    scope=manifest_pb2.SCOPE_REQUEST,
                    axes=["request", heads, "source", d_head],
                    encode_output=name,
                    step_output=f"next_{name}",
                    in_place=True,
                    growing_axis="source",
                    capacity=max_source + 1,
                )
            )
    return states


def transformer_variants(model: Transformer, states: list[manifest_pb2.State]) -> list[VariantSpec]:
    """fp32 for the CPU, and fp16 for CUDA from the half-precision module."""
    cpu = [_step(model, states, FLOAT32, 1, BEST), *(_step(model, states, FLOAT32, group, BLOCK) for group in BLOCK_GROUPS)]
    cpu += [_step(model, states, FLOAT32, group, gives) for gives in ("", ATTENTION) for group in GROUPS]
    half = _half(model)
    cuda = [_step(half, states, FLOAT16, group, suffix="_cuda") for group in GROUPS]
    return [
        VariantSpec("fp32", manifest_pb2.DEVICE_CPU, _encode(model, FLOAT32), cpu),
        VariantSpec("fp16", manifest_pb2.DEVICE_CUDA, _encode(half, FLOAT16, suffix="_cuda"), cuda),
    ]


def _half(model: Transformer) -> Transformer:
    half = Transformer(model.config)
    half.load_state_dict(model.state_dict())
    return half.half().eval()


def _encode(model: Transformer, dtype: Any, suffix: str = "") -> GraphSpec:
    heads, d_head = str(model.config.num_heads), str(model.config.d_model // model.config.num_heads)
    outputs = [
        tensor(f"cross_{part}_{index}", dtype, "request", heads, "source", d_head)
        for index in range(model.config.num_decoder_layers)
        for part in ("key", "value")
    ]
    return GraphSpec(f"encode{suffix}.onnx", EncodeGraph(model, is_for_cuda=dtype == FLOAT16), source_inputs(), outputs)


def _step(
    model: Transformer, states: list[manifest_pb2.State], dtype: Any, group: int, gives: str = "", suffix: str = ""
) -> GraphSpec:
    config = model.config
    grouped, is_blocked = group > 1, gives == BLOCK
    is_routed = grouped and not is_blocked
    inputs: list[manifest_pb2.Tensor | None] = [
        tensor("token", INT64, "row"),
        tensor("position", INT32, "row"),
        tensor("source_length", INT32, "request" if grouped else "row"),
        tensor("rows_of_request", INT64, "request", str(group)) if is_routed else None,
        tensor("place_of_row", INT64, "row") if is_routed else None,
    ]
    for state in states:
        axes = [str(state.capacity) if axis == state.growing_axis else axis for axis in state.axes]
        if not grouped:
            axes[0] = "row"
        inputs.append(tensor(state.name, dtype, *axes))
    candidates = 2 * group if grouped or suffix else 0
    outputs = best_outputs(candidates) if is_blocked else score_outputs(config.vocab_size, candidates, with_log_probs=gives != BEST)
    if gives == ATTENTION:
        axes = ["row", str(config.num_decoder_layers), str(config.num_heads), str(_capacity(states, "source"))]
        outputs.append(tensor("attention", FLOAT32, *axes))
    outputs += [
        tensor(state.step_output, dtype, *source.axes)
        for state, source in zip(states, [each for each in inputs[5:] if each is not None], strict=True)
    ]
    name = f"step_{group}{f'_{gives}' if gives else ''}{suffix}.onnx"
    module = StepGraph(model, group=group, gives=gives, candidates=candidates, is_for_cuda=dtype == FLOAT16)
    return GraphSpec(
        name,
        module,
        inputs,
        outputs,
        max_rows_of_request=group,
        gives_attention=gives == ATTENTION,
        block_rows=group if is_blocked else 0,
    )


def _capacity(states: list[manifest_pb2.State], axis: str) -> int:
    return next(state.capacity for state in states if state.growing_axis == axis)


def _attention(model: Transformer) -> manifest_pb2.AttentionOutput:
    return manifest_pb2.AttentionOutput(
        output="attention",
        meaning="Encoder-decoder attention of each decoder layer and head: which source pieces a target piece was made from.",
        num_layers=model.config.num_decoder_layers,
        num_heads=model.config.num_heads,
    )


GRAPHS = Graphs(
    paper=manifest_pb2.Paper(
        title="Attention Is All You Need", authors="Vaswani et al.", year=2017, url="https://arxiv.org/abs/1706.03762"
    ),
    states=transformer_states,
    variants=transformer_variants,
    parts={
        "embedding": "embedding",
        "self_norm": "self-attention",
        "self_attention": "self-attention",
        "cross_norm": "cross-attention",
        "cross_attention": "cross-attention",
        "ff_norm": "feed-forward",
        "feed_forward": "feed-forward",
        "encoder_norm": "cross-attention",
        "decoder_norm": "output",
        "output_layer": "output",
    },
    attention=_attention,
)
