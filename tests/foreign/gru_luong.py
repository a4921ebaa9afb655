# SPDX-License-Identifier: Apache-2.0
"""A recurrent model foreign to the project: GRU encoder and decoder with the "general" attention of Luong et al. 2015.

Its state is one vector a hypothesis, replaced at each step, and the encoder's states, which all hypotheses of a request
share. Its step graph gathers by ``request_of_row``, knows no positions, and gives logits and one attention map.
"""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from attnserve.v1 import manifest_pb2
from tests.foreign import common
from tests.foreign.common import CAPACITY, END_ID, FLOAT32, INT64, VOCAB_SIZE, tensor

MODEL_ID = "foreign-gru-luong"
EMBEDDING, HIDDEN = 16, 24
MASKED_SCORE = -1e9


class GruLuong(nn.Module):
    """Embeds, reads with one GRU, writes with another: no input feeding, and no bridge between them. Token id 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(VOCAB_SIZE, EMBEDDING)
        self.target_embedding = nn.Embedding(VOCAB_SIZE, EMBEDDING)
        self.reader = nn.GRU(EMBEDDING, HIDDEN, batch_first=True)
        self.input_gates = nn.Linear(EMBEDDING, 3 * HIDDEN)
        self.hidden_gates = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.score = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.combine = nn.Linear(2 * HIDDEN, HIDDEN, bias=False)
        self.output = nn.Linear(HIDDEN, VOCAB_SIZE)

    def cell(self, token: Tensor, hidden: Tensor) -> Tensor:
        """One step of the decoder's GRU: (B,) and (B, H) -> (B, H)."""
        reset_in, update_in, new_in = self.input_gates(self.target_embedding(token)).chunk(3, -1)
        reset_hidden, update_hidden, new_hidden = self.hidden_gates(hidden).chunk(3, -1)
        reset, update = torch.sigmoid(reset_in + reset_hidden), torch.sigmoid(update_in + update_hidden)
        return (1 - update) * torch.tanh(new_in + reset * new_hidden) + update * hidden

    def attend(self, hidden: Tensor, memory: Tensor, source_length: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H), (B, T_src, H), (B,) -> the attentional hidden state (B, H) and the weights (B, T_src)."""
        is_beyond = torch.arange(memory.shape[1])[None, :] >= source_length[:, None]
        scores = (memory @ self.score(hidden)[:, :, None])[:, :, 0]
        weights = torch.where(is_beyond, MASKED_SCORE, scores).softmax(-1)
        context = (weights[:, None, :] @ memory)[:, 0]
        return torch.tanh(self.combine(torch.cat([context, hidden], -1))), weights

    def encode(self, src: Tensor) -> Tensor:
        """Source tokens int64 (B, T_src), 0 where padded -> memory (B, T_src, H)."""
        memory: Tensor = self.reader(self.source_embedding(src))[0]
        return memory

    def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Attentional hidden states (B, T_tgt, H) of a whole target, and one layer of weights (B, 1, T_tgt, T_src)."""
        length = (src != 0).sum(1)
        hidden = memory[torch.arange(len(src)), length - 1]
        steps = []
        for token in tgt.unbind(1):
            hidden = self.cell(token, hidden)
            steps.append(self.attend(hidden, memory, length))
        return torch.stack([attentional for attentional, _ in steps], 1), [
            torch.stack([weights for _, weights in steps], 1)[:, None]
        ]

    def project(self, hidden: Tensor) -> Tensor:
        """(..., H) -> logits (..., V)."""
        logits: Tensor = self.output(hidden)
        return logits


class EncodeGraph(nn.Module):
    """The forward of the encode graph: ONNX's own GRU operator, because a traced ``nn.GRU`` keeps the length it was traced with."""

    def __init__(self, model: GruLuong) -> None:
        super().__init__()
        self.embedding = model.source_embedding
        weights = [getattr(model.reader, name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]
        # PyTorch has the gates as reset, update, new; ONNX as update, reset, new.
        weight, recurrence, *biases = (part.unflatten(0, (3, HIDDEN))[[1, 0, 2]].flatten(0, 1) for part in weights)
        self.register_buffer("weight", weight[None])
        self.register_buffer("recurrence", recurrence[None])
        self.register_buffer("bias", torch.cat(biases)[None])

    def forward(self, source: Tensor, source_length: Tensor) -> tuple[Tensor, Tensor]:
        """Gives memory, zero beyond each source's end, and the decoder's first hidden state."""
        embedded = self.embedding(source).transpose(0, 1)
        states, last = torch.onnx.ops.symbolic_multi_out(
            "GRU",
            [embedded, self.weight, self.recurrence, self.bias, source_length.int()],
            attrs={"hidden_size": HIDDEN, "linear_before_reset": 1},
            dtypes=[torch.float32, torch.float32],
            shapes=[(embedded.shape[0], 1, embedded.shape[1], HIDDEN), (1, embedded.shape[1], HIDDEN)],
            version=14,
        )
        return states[:, 0].transpose(0, 1), last[0]


class StepGraph(nn.Module):
    """The forward of the step graph."""

    def __init__(self, model: GruLuong) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, token: Tensor, source_length: Tensor, request_of_row: Tensor, memory: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gives logits, attention, and the next hidden state."""
        following = self.model.cell(token, hidden)
        attentional, weights = self.model.attend(following, memory[request_of_row], source_length[request_of_row])
        return self.model.project(attentional), weights, following


def build_module(seed: int = 0) -> GruLuong:
    """Random weights, large enough for answers that depend on the source and end at some point; the same for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GruLuong()
        for name, parameter in model.named_parameters():
            nn.init.normal_(parameter, std=1.0 if "embedding" in name else 0.45)
        nn.init.constant_(model.output.bias[END_ID], 1.5)
    return model.eval().requires_grad_(False)


def build_graphs(module: GruLuong) -> dict[str, onnx.ModelProto]:
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
    memory = tensor("memory", FLOAT32, "request", "source", str(HIDDEN))
    hidden = tensor("hidden", FLOAT32, "row", str(HIDDEN))
    manifest = common.manifest(MODEL_ID, "GRU encoder-decoder with Luong attention", "A recurrent model of another make.")
    manifest.states.add(
        name=memory.name,
        scope=manifest_pb2.SCOPE_REQUEST,
        axes=memory.axes,
        encode_output="encoder_states",
        growing_axis="source",
        capacity=CAPACITY,
    )
    manifest.states.add(
        name=hidden.name,
        scope=manifest_pb2.SCOPE_HYPOTHESIS,
        axes=hidden.axes,
        encode_output="last_state",
        step_output="next_hidden",
    )
    manifest.attention.CopyFrom(
        manifest_pb2.AttentionOutput(output="weights", meaning="Softmax of the general score over the source.")
    )
    manifest.variants.add(
        name="fp32",
        device=manifest_pb2.DEVICE_CPU,
        encode=manifest_pb2.Graph(
            file="reader.onnx",
            inputs=[tensor("source", INT64, "request", "source"), tensor("source_length", INT64, "request")],
            outputs=[
                tensor("encoder_states", FLOAT32, "request", "source", str(HIDDEN)),
                tensor("last_state", FLOAT32, "request", str(HIDDEN)),
            ],
        ),
        steps=[
            manifest_pb2.StepGraph(
                graph=manifest_pb2.Graph(
                    file="writer.onnx",
                    inputs=[
                        tensor("token", INT64, "row"),
                        tensor("source_length", INT64, "request"),
                        tensor("request_of_row", INT64, "row"),
                        memory,
                        hidden,
                    ],
                    outputs=[
                        tensor("logits", FLOAT32, "row", str(VOCAB_SIZE)),
                        tensor("weights", FLOAT32, "row", "source"),
                        tensor("next_hidden", FLOAT32, "row", str(HIDDEN)),
                    ],
                ),
                gives_attention=True,
            )
        ],
    )
    return manifest
