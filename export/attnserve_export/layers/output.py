# SPDX-License-Identifier: Apache-2.0
"""Parts that the models share: one embedding matrix for source, target and output (Press & Wolf 2017)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from attnserve_export.layers.dropout import PooledDropout


class OutputLayer(nn.Module):
    """The product with the vocabulary's matrix. It is a module, without parameters, so that a graph's nodes carry its name."""

    def forward(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """(..., d) and (V, d) -> logits (..., V)."""
        return nn.functional.linear(hidden, weight)


class TokenTable(nn.Module):
    """A linear layer's output for each token of the vocabulary, as a table: a step looks up its tokens instead of multiplying.

    In a graph the table is computed from constants, so ONNX Runtime computes it once, at load. A bundle does not store it.

    Args:
        weight: (D, d) of the layer that reads embeddings.
        bias: (D).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, embedding: Tensor, token: Tensor) -> Tensor:
        """Maps the embedding matrix (V, d), scaled as in :meth:`TiedModel.embed`, and int64 (S) to (S, D)."""
        table = nn.functional.linear(embedding * math.sqrt(embedding.shape[1]), self.weight, self.bias)
        return table.index_select(0, token)


class TiedModel(nn.Module):
    """Base of an encoder-decoder whose output layer uses the embedding matrix. Token id 0 is padding.

    Args:
        vocab_size: V, shared by both languages.
        width: d, of an embedding and of the output layer's input.
        dropout: rate of all dropout layers.
    """

    def __init__(self, vocab_size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.output_layer = OutputLayer()
        self.dropout = PooledDropout(dropout)

    @property
    def output_weight(self) -> Tensor:
        """The output layer's matrix (V, d): the embedding matrix itself."""
        return self.embedding.weight

    def embed(self, tokens: Tensor) -> Tensor:
        """int64 (B, T) -> (B, T, d), scaled by sqrt(d), because the matrix serves both as embedding and as output layer."""
        out: Tensor = self.dropout(self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim))
        return out

    def encode(self, src: Tensor) -> Tensor:
        """Source tokens int64 (B, T_src) -> memory."""
        raise NotImplementedError

    def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Processes all target positions at once; returns hidden states (B, T_tgt, d), and alignments."""
        raise NotImplementedError

    def project(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary: (..., d) -> (..., V)."""
        logits: Tensor = self.output_layer(hidden, self.embedding.weight)
        return logits

    def next_logits(self, hidden: Tensor) -> Tensor:
        """Logits as served, (..., d) -> (..., V): :meth:`project`, unless a model excludes some tokens."""
        return self.project(hidden)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Hidden states (B, T_tgt, d) of the target; :meth:`project` gives their logits."""
        return self.decode(self.encode(src), src, tgt)[0]
