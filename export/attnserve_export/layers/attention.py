# SPDX-License-Identifier: Apache-2.0
"""Additive attention (Bahdanau et al. 2015); scaled dot-product and multi-head attention (Vaswani et al. 2017, section 3.2).

Symbols of the latter paper and their names here: Q, K, V -> ``query, key, value``; h -> ``num_heads``; d_k = d_v -> ``d_head``;
W^Q, W^K, W^V, W^O -> the rows of ``qkv.weight`` (self-attention) or of ``query.weight`` and ``key_value.weight``
(encoder-decoder attention), and ``output.weight``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MASKED_SCORE = -1e9


def additive_attention(
    query: Tensor, key: Tensor, score: Tensor, value: Tensor, is_hidden: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The alignment model of Bahdanau et al. 2015, appendix A.1.2, and the context of its equations 5 and 6.

    e_ij = v_a^T tanh(W_a s_{i-1} + U_a h_j), alpha_i = softmax(e_i), c_i = sum_j alpha_ij h_j. The score is computed as
    2 v_a^T sigmoid(2 (...)), which differs by a constant that the softmax cancels, since tanh x = 2 sigmoid 2x - 1: on a
    CPU PyTorch's tanh takes three times as long as its sigmoid.

    Args:
        query: W_a s_{i-1}, (B, A).
        key: 2 U_a h_j, (B, T_src, A); it depends on the source only.
        score: v_a, (A).
        value: the annotations h_j, (B, T_src, D).
        is_hidden: bool (B, T_src); true for padding. None if there is no padding.

    Returns:
        The contexts (B, D) and the weights (B, T_src), whose rows sum to one and are exactly 0 where hidden.
    """
    energies: Tensor = torch.sigmoid((2 * query).unsqueeze(1) + key)  # (B, T_src, A)
    scores = (energies @ (2 * score).unsqueeze(-1)).squeeze(-1)  # (A, 1), since ONNX Runtime takes 8 times as long for (A)
    weights: Tensor = (scores if is_hidden is None else scores.masked_fill(is_hidden, MASKED_SCORE)).softmax(-1)
    context: Tensor = (weights.unsqueeze(1) @ value).squeeze(1)
    return context, weights


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, is_hidden: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(d_k)) V, equation 1.

    Args:
        query: (B, H, T_q, D).
        key: (B, H, T_k, D).
        value: (B, H, T_k, D).
        is_hidden: bool, broadcastable to (B, H, T_q, T_k); true where a key is masked.

    Returns:
        The attended values (B, H, T_q, D) and the weights (B, H, T_q, T_k), whose rows sum to one.
    """
    scores: Tensor = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, T_q, T_k)
    weights: Tensor = scores.masked_fill(is_hidden, MASKED_SCORE).softmax(-1)
    attended: Tensor = weights @ value
    return attended, weights


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, T, H*D) -> (B, H, T, D)."""
    heads: Tensor = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return heads


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H*D)."""
    return x.transpose(1, 2).flatten(-2)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence over itself (section 3.2.2), the three input projections in one matrix.

    Args:
        d_model: width of the input and of the output.
        num_heads: h of the paper; ``d_model`` must be a multiple of it.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.output = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, is_hidden: Tensor) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model); ``is_hidden`` as in :func:`scaled_dot_product_attention`."""
        query, key, value = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        attended, _ = scaled_dot_product_attention(query, key, value, is_hidden)
        out: Tensor = self.output(merge_heads(attended))
        return out


class CrossAttention(nn.Module):
    """Encoder-decoder attention (section 3.2.3, first item): queries of the decoder over the encoder's memory."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(d_model, d_model)
        self.key_value = nn.Linear(d_model, 2 * d_model)
        self.output = nn.Linear(d_model, d_model)

    def memory_heads(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Returns keys and values of a memory (B, T_src, d_model): (B, H, T_src, D) each."""
        key, value = (split_heads(part, self.num_heads) for part in self.key_value(memory).chunk(2, -1))
        return key, value

    def forward(self, x: Tensor, memory: Tensor, is_hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the output (B, T, d_model) and the alignment weights (B, H, T, T_src)."""
        query = split_heads(self.query(x), self.num_heads)
        key, value = self.memory_heads(memory)
        attended, weights = scaled_dot_product_attention(query, key, value, is_hidden)
        return self.output(merge_heads(attended)), weights


def sinusoidal_positions(num_positions: int, d_model: int) -> Tensor:
    """The positional encoding of section 3.5: (num_positions, d_model), sines in even columns, cosines in odd ones."""
    position = torch.arange(num_positions, dtype=torch.float64).unsqueeze(1)
    rate = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * (-math.log(10000.0) / d_model))
    table = torch.zeros(num_positions, d_model, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = torch.sin(position * rate), torch.cos(position * rate)
    return table.float()
