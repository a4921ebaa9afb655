# SPDX-License-Identifier: Apache-2.0
"""A Transformer foreign to the project: post-norm, learned positions, GELU, caches of another layout and other names.

Its self-attention caches (row, target, heads, dim) are not written in place: a step gives new ones. Its cross-attention keys
and values (request, source, heads, dim) are gathered by ``request_of_row``. Its lengths and positions are int32, its output
is ``log_probs``, and it gives no attention.
"""

from __future__ import annotations

import math

import onnx
import torch
from torch import Tensor, nn

from attnserve.v1 import manifest_pb2
from tests.foreign import common
from tests.foreign.common import CAPACITY, END_ID, FLOAT32, INT32, INT64, VOCAB_SIZE, tensor

MODEL_ID = "foreign-post-norm-transformer"
WIDTH, HEADS, INNER, LAYERS = 32, 4, 64, 2
HEAD_DIM = WIDTH // HEADS
MASKED_SCORE = -1e9
# Of random weights, by a part of their name; the target weighs most, or a model would repeat one token.
STDS = {"target_": 3.0, "source_": 1.0}


def _heads(x: Tensor) -> Tensor:
    """(..., W) -> (..., H, D)."""
    return x.unflatten(-1, (HEADS, HEAD_DIM))


class Attention(nn.Module):
    """Multi-head attention whose keys and values (B, T, H, D) are made apart, so that they can come from a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., W) -> twice (..., H, D)."""
        return _heads(self.key(x)), _heads(self.value(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, is_hidden: Tensor) -> Tensor:
        """(B, Q, W), twice (B, T, H, D), bool broadcastable to (B, H, Q, T) -> (B, Q, W)."""
        query = _heads(self.query(x)).transpose(1, 2)
        scores = query @ keys.permute(0, 2, 3, 1) / math.sqrt(HEAD_DIM)
        weights = torch.where(is_hidden, MASKED_SCORE, scores).softmax(-1)
        out: Tensor = self.output((weights @ values.transpose(1, 2)).transpose(1, 2).flatten(-2))
        return out


class Layer(nn.Module):
    """A layer of either stack; the encoder's has no cross-attention. The normalization stands after each sum, as in the paper."""

    def __init__(self, has_cross_attention: bool) -> None:
        super().__init__()
        self.self_attention, self.self_norm = Attention(), nn.LayerNorm(WIDTH)
        if has_cross_attention:
            self.cross_attention, self.cross_norm = Attention(), nn.LayerNorm(WIDTH)
        self.inner, self.outer, self.inner_norm = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH), nn.LayerNorm(WIDTH)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The last sub-layer with its sum and normalization: (B, T, W) -> (B, T, W)."""
        out: Tensor = self.inner_norm(x + self.outer(nn.functional.gelu(self.inner(x))))
        return out

    def decode(
        self, x: Tensor, self_kv: tuple[Tensor, Tensor], cross_kv: tuple[Tensor, Tensor], hidden: tuple[Tensor, Tensor]
    ) -> Tensor:
        """A decoder layer over given keys and values; ``hidden`` are the masks of both attentions."""
        x = self.self_norm(x + self.self_attention(x, *self_kv, hidden[0]))
        x = self.cross_norm(x + self.cross_attention(x, *cross_kv, hidden[1]))
        return self.feed_forward(x)


class PostNormTransformer(nn.Module):
    """Two layers each, no tied embeddings. Token id 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.source_embedding, self.target_embedding = nn.Embedding(VOCAB_SIZE, WIDTH), nn.Embedding(VOCAB_SIZE, WIDTH)
        self.source_positions, self.target_positions = nn.Embedding(CAPACITY, WIDTH), nn.Embedding(CAPACITY, WIDTH)
        self.encoder = nn.ModuleList(Layer(has_cross_attention=False) for _ in range(LAYERS))
        self.decoder = nn.ModuleList(Layer(has_cross_attention=True) for _ in range(LAYERS))
        self.output = nn.Linear(WIDTH, VOCAB_SIZE)

    def read(self, source: Tensor, source_length: Tensor) -> Tensor:
        """(B, T_src) and (B,) -> (B, T_src, W)."""
        is_hidden = (torch.arange(source.shape[1])[None, :] >= source_length[:, None])[:, None, None, :]
        x = self.source_embedding(source) + self.source_positions(torch.arange(source.shape[1]))
        for layer in self.encoder:
            x = layer.self_norm(x + layer.self_attention(x, *layer.self_attention.keys_values(x), is_hidden))
            x = layer.feed_forward(x)
        return x

    def encode(self, src: Tensor) -> Tensor:
        """Source tokens int64 (B, T_src), 0 where padded -> memory (B, T_src, W)."""
        return self.read(src, (src != 0).sum(1))

    def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Hidden states (B, T_tgt, W) of a whole target; gives no alignments."""
        length = tgt.shape[1]
        is_future = torch.ones(length, length, dtype=torch.bool).triu(1)[None, None]
        is_padding = (src == 0)[:, None, None, :]
        x = self.target_embedding(tgt) + self.target_positions(torch.arange(length))
        for layer in self.decoder:
            own, cross = layer.self_attention.keys_values(x), layer.cross_attention.keys_values(memory)
            x = layer.decode(x, own, cross, (is_future, is_padding))
        return x, []

    def project(self, hidden: Tensor) -> Tensor:
        """(..., W) -> logits (..., V)."""
        logits: Tensor = self.output(hidden)
        return logits


class EncodeGraph(nn.Module):
    """The forward of the encode graph."""

    def __init__(self, model: PostNormTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, source_length: Tensor) -> tuple[Tensor, ...]:
        """Gives keys and values of each decoder layer's cross-attention, in turn."""
        memory = self.model.read(source, source_length)
        return tuple(part for layer in self.model.decoder for part in layer.cross_attention.keys_values(memory))


class StepGraph(nn.Module):
    """The forward of the step graph."""

    def __init__(self, model: PostNormTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, token: Tensor, position: Tensor, source_length: Tensor, request_of_row: Tensor, *states: Tensor
    ) -> tuple[Tensor, ...]:
        """``states`` are own keys, own values, cross keys and cross values of each layer; gives log_probs and new own ones."""
        request, target = request_of_row.long(), torch.arange(states[0].shape[1])[None, :]
        is_padding = (torch.arange(states[2].shape[1])[None, :] >= source_length[request][:, None])[:, None, None, :]
        is_future = (target > position[:, None])[:, None, None, :]
        is_here = (target == position[:, None])[:, :, None, None]
        x = (self.model.target_embedding(token) + self.model.target_positions(position))[:, None]
        following: list[Tensor] = []
        for index, layer in enumerate(self.model.decoder):
            own_keys, own_values, cross_keys, cross_values = states[4 * index : 4 * index + 4]
            new_keys, new_values = layer.self_attention.keys_values(x)
            own = torch.where(is_here, new_keys, own_keys), torch.where(is_here, new_values, own_values)
            x = layer.decode(x, own, (cross_keys[request], cross_values[request]), (is_future, is_padding))
            following += own
        return self.model.project(x[:, 0]).log_softmax(-1), *following


def build_module(seed: int = 1) -> PostNormTransformer:
    """Random weights, large enough for answers that depend on the source and end at some point; the same for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PostNormTransformer()
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                nn.init.normal_(parameter, std=next((std for part, std in STDS.items() if part in name), 0.15))
        nn.init.normal_(model.output.weight, std=0.5)
        nn.init.normal_(model.output.bias, std=0.5)
        nn.init.constant_(model.output.bias[END_ID], 2.5)
    return model.eval().requires_grad_(False)


def build_graphs(module: PostNormTransformer) -> dict[str, onnx.ModelProto]:
    """The ONNX files of the bundle by name."""
    variant = describe().variants[0]
    step = variant.steps[0].graph
    return {
        variant.encode.file: common.export_graph(EncodeGraph(module), variant.encode),
        step.file: common.export_graph(StepGraph(module), step),
    }


def extra_files() -> dict[str, bytes]:
    """The other files of the bundle by name."""
    return common.extra_files(MODEL_ID)


def describe() -> manifest_pb2.Manifest:
    """The manifest, without files, producers and parity."""
    manifest = common.manifest(MODEL_ID, "Transformer, post-norm", "A Transformer of another make.")
    head_axes = (str(HEADS), str(HEAD_DIM))
    inputs, outputs, encoded = [], [tensor("log_probs", FLOAT32, "row", str(VOCAB_SIZE))], []
    for layer in range(LAYERS):
        for kind in ("k", "v"):
            state = tensor(f"past.{layer}.{kind}", FLOAT32, "row", "target", *head_axes)
            following = tensor(f"present.{layer}.{kind}", FLOAT32, "row", "target", *head_axes)
            inputs.append(state)
            outputs.append(following)
            manifest.states.add(
                name=state.name,
                scope=manifest_pb2.SCOPE_HYPOTHESIS,
                axes=state.axes,
                step_output=following.name,
                growing_axis="target",
                capacity=CAPACITY,
            )
        for kind in ("k", "v"):
            state = tensor(f"source.{layer}.{kind}", FLOAT32, "request", "source", *head_axes)
            first = tensor(f"encoded.{layer}.{kind}", FLOAT32, "request", "source", *head_axes)
            inputs.append(state)
            encoded.append(first)
            manifest.states.add(
                name=state.name,
                scope=manifest_pb2.SCOPE_REQUEST,
                axes=state.axes,
                encode_output=first.name,
                growing_axis="source",
                capacity=CAPACITY,
            )
    reserved = [
        tensor("token", INT64, "row"),
        tensor("position", INT32, "row"),
        tensor("source_length", INT32, "request"),
        tensor("request_of_row", INT32, "row"),
    ]
    manifest.variants.add(
        name="fp32",
        device=manifest_pb2.DEVICE_CPU,
        encode=manifest_pb2.Graph(
            file="understand.onnx",
            inputs=[tensor("source", INT64, "request", "source"), tensor("source_length", INT32, "request")],
            outputs=encoded,
        ),
        steps=[
            manifest_pb2.StepGraph(graph=manifest_pb2.Graph(file="continue.onnx", inputs=[*reserved, *inputs], outputs=outputs))
        ],
    )
    return manifest
