# SPDX-License-Identifier: Apache-2.0
"""Attention Is All You Need (Vaswani et al. 2017), https://arxiv.org/abs/1706.03762, in the size Tiny of Wu et al. 2021.

What differs from the paper:

* Layer normalization precedes each sub-layer and follows the last layer of each stack ("pre-norm"), where the paper has
  LayerNorm(x + Sublayer(x)): at small scale it trains without tuning.
* The three embedding matrices are one, as in section 3.4, and the output projection has no bias.
* Dropout also acts on the attention's output projection and inside the feed-forward layer, not on the attention weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from attnserve_export.layers.attention import CrossAttention, SelfAttention, sinusoidal_positions
from attnserve_export.layers.dropout import PooledDropout
from attnserve_export.layers.output import TiedModel


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Sizes of a Transformer: names of the paper's table 3 (N, d_model, d_ff, h, P_drop)."""

    vocab_size: int
    d_model: int = 128
    d_ff: int = 256
    num_heads: int = 4
    num_encoder_layers: int = 4
    num_decoder_layers: int = 4
    dropout: float = 0.3
    max_positions: int = 512


class FeedForward(nn.Module):
    """FFN(x) = max(0, x W1 + b1) W2 + b2, equation 2."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.d_model, config.d_ff)
        self.outer = nn.Linear(config.d_ff, config.d_model)
        self.dropout = PooledDropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model)."""
        out: Tensor = self.outer(self.dropout(torch.relu(self.inner(x))))
        return out


class EncoderLayer(nn.Module):
    """Figure 1, left."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_norm, self.ff_norm = nn.LayerNorm(config.d_model), nn.LayerNorm(config.d_model)
        self.self_attention = SelfAttention(config.d_model, config.num_heads)
        self.feed_forward = FeedForward(config)
        self.dropout = PooledDropout(config.dropout)

    def forward(self, x: Tensor, is_hidden: Tensor) -> Tensor:
        """(B, T_src, d_model) -> (B, T_src, d_model)."""
        x = x + self.dropout(self.self_attention(self.self_norm(x), is_hidden))
        out: Tensor = x + self.dropout(self.feed_forward(self.ff_norm(x)))
        return out


class DecoderLayer(nn.Module):
    """Figure 1, right."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d_model = config.d_model
        self.self_norm, self.cross_norm, self.ff_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.self_attention = SelfAttention(d_model, config.num_heads)
        self.cross_attention = CrossAttention(d_model, config.num_heads)
        self.feed_forward = FeedForward(config)
        self.dropout = PooledDropout(config.dropout)

    def forward(self, x: Tensor, memory: Tensor, is_hidden: Tensor, is_memory_hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (B, T_tgt, d_model) and the alignment weights (B, H, T_tgt, T_src)."""
        x = x + self.dropout(self.self_attention(self.self_norm(x), is_hidden))
        attended, weights = self.cross_attention(self.cross_norm(x), memory, is_memory_hidden)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.ff_norm(x))), weights


class Transformer(TiedModel):
    """The encoder-decoder of figure 1 with tied embeddings. Token id 0 is padding."""

    positions: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.vocab_size, config.d_model, config.dropout)
        self.config = config
        self.register_buffer("positions", sinusoidal_positions(config.max_positions, config.d_model), persistent=False)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(config.d_model), nn.LayerNorm(config.d_model)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and not name.startswith("embedding"):
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.embedding.weight, std=self.config.d_model**-0.5)

    @property
    def encoder_layers(self) -> list[EncoderLayer]:
        """The N layers of the encoder, first to last."""
        return cast(list[EncoderLayer], list(self.encoder))

    @property
    def decoder_layers(self) -> list[DecoderLayer]:
        """The N layers of the decoder, first to last."""
        return cast(list[DecoderLayer], list(self.decoder))

    def embed(self, tokens: Tensor) -> Tensor:
        """Sections 3.4 and 3.5: int64 (B, T) -> (B, T, d_model), scaled by sqrt(d_model), positions added."""
        scaled = self.embedding(tokens) * math.sqrt(self.config.d_model)
        out: Tensor = self.dropout(scaled + self.positions[: tokens.shape[1]])
        return out

    def encode(self, src: Tensor) -> Tensor:
        """Source tokens int64 (B, T_src), 0 where padded -> memory (B, T_src, d_model)."""
        is_hidden = (src == 0)[:, None, None, :]
        x = self.embed(src)
        for layer in self.encoder_layers:
            x = layer(x, is_hidden)
        out: Tensor = self.encoder_norm(x)
        return out

    def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Processes all target positions at once; each depends on those before it (teacher forcing).

        Args:
            memory: (B, T_src, d_model).
            src: int64 (B, T_src), for its padding.
            tgt: int64 (B, T_tgt), beginning with the begin symbol.

        Returns:
            The last hidden states (B, T_tgt, d_model), and the alignment weights of each layer (B, H, T_tgt, T_src).
        """
        length = tgt.shape[1]
        is_future = torch.ones(length, length, dtype=torch.bool, device=tgt.device).triu(1)[None, None]
        is_memory_hidden = (src == 0)[:, None, None, :]
        x, alignments = self.embed(tgt), []
        for layer in self.decoder_layers:
            x, weights = layer(x, memory, is_future, is_memory_hidden)
            alignments.append(weights)
        return self.decoder_norm(x), alignments
