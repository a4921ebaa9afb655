# SPDX-License-Identifier: Apache-2.0
"""What the models share: one embedding matrix that serves source, target and output (Press & Wolf 2017)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from attnserve_export.layers.dropout import PooledDropout


class OutputLayer(nn.Module):
    """The product with the vocabulary's matrix; a module without parameters, so that graphs know its nodes by its name."""

    def forward(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """(..., d) and (V, d) -> logits (..., V)."""
        return nn.functional.linear(hidden, weight)


class TokenTable(nn.Module):
    """What a linear layer makes of each token of the vocabulary, as a table: a step looks its tokens up instead of multiplying.

    In a graph the table is made of constants, so ONNX Runtime computes it once, when it loads the graph. A bundle does not hold it.

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
        """The embedding matrix (V, d), scaled as :meth:`TiedModel.embed` does, and int64 (S) -> (S, D)."""
        table = nn.functional.linear(embedding * math.sqrt(embedding.shape[1]), self.weight, self.bias)
        return table.index_select(0, token)


class TiedModel(nn.Module):
    """Base of an encoder-decoder whose embedding matrix is also its output layer's. Token id 0 is padding.

    Args:
        vocab_size: V, of both languages together.
        width: d, of an embedding and of what the output layer reads.
        dropout: rate wherever the model drops something.
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
        """int64 (B, T) -> (B, T, d), scaled by the square root of d, so that one matrix can be read and written with."""
        out: Tensor = self.dropout(self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim))
        return out

    def encode(self, src: Tensor) -> Tensor:
        """Source tokens int64 (B, T_src) -> memory."""
        raise NotImplementedError

    def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
        """All target positions at once: hidden states (B, T_tgt, d), and alignments."""
        raise NotImplementedError

    def project(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary: (..., d) -> (..., V)."""
        logits: Tensor = self.output_layer(hidden, self.embedding.weight)
        return logits

    def next_logits(self, hidden: Tensor) -> Tensor:
        """Logits as they are served, (..., d) -> (..., V): :meth:`project`, where a model does not rule out some tokens."""
        return self.project(hidden)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Hidden states (B, T_tgt, d) of the target; :meth:`project` gives their logits."""
        return self.decode(self.encode(src), src, tgt)[0]
