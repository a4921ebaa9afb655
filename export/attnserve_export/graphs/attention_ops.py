# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's GroupQueryAttention as the attention of exported graphs, emitted straight from the traced module.

Why this operator (measured on a CPU): it reads each row's valid length only, so a row's cost does not depend on its batch mates;
its result is bit-identical in every batch; and it appends to the cache in place. Three uses:

* self-attention of a step: one new token a row is appended at the row's own position;
* cross-attention: nothing is appended (keys and values of length 0), the row reads its request's memory; ``group`` hypotheses of
  one request are additional query heads over the same key-value heads, so the memory is not copied for a beam;
* the encoder: ``causal=0``, one prompt a row, right-padded.

These calls have no value in PyTorch: a module that makes them can be exported, not run.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from attnserve_export.layers.attention import MASKED_SCORE, merge_heads, split_heads

_OP = "com.microsoft::GroupQueryAttention"


def total_length(capacity: int) -> Tensor:
    """The total length that the operator asks for: the buffer's capacity. It is a constant, as a CUDA graph requires."""
    return torch.tensor([capacity], dtype=torch.int32)


def encode_attention(qkv: Tensor, last: Tensor, num_heads: int) -> Tensor:
    """Bidirectional self-attention over right-padded rows.

    Args:
        qkv: packed projections (B, L, 3*H*D).
        last: int32 (B), index of each row's last valid position.
        num_heads: H.

    Returns:
        (B, L, H*D); positions after ``last`` are undefined.
    """
    batch, length, packed = qkv.shape
    width = packed // 3
    cache = (batch, num_heads, length, width // num_heads)
    total = torch.full((1,), 1, dtype=torch.int32) * length
    out = torch.onnx.ops.symbolic_multi_out(
        _OP,
        [qkv, None, None, None, None, last, total.to(torch.int32)],
        {"num_heads": num_heads, "kv_num_heads": num_heads, "causal": 0},
        dtypes=[qkv.dtype] * 3,
        shapes=[(batch, length, width), cache, cache],
        version=1,
    )
    return out[0]


def masked_encode_attention(qkv: Tensor, last: Tensor, num_heads: int) -> Tensor:
    """What :func:`encode_attention` gives, from plain operators: equation 1 of Vaswani et al. 2017 with padding masked.

    For CUDA, where the operator lets a prompt that is not causal attend to its padding.

    Args:
        qkv: packed projections (B, L, 3*H*D).
        last: int32 (B), index of each row's last valid position.
        num_heads: H.

    Returns:
        (B, L, H*D); rows beyond ``last`` hold nothing of use.
    """
    query, key, value = (split_heads(part, num_heads) for part in qkv.chunk(3, -1))
    scores = (query @ key.transpose(-2, -1)).float() / math.sqrt(query.shape[-1])  # in float32, which holds MASKED_SCORE
    weights = scores.masked_fill(_is_hidden(qkv.shape[1], last)[:, None, None], MASKED_SCORE).softmax(-1).to(qkv.dtype)
    return merge_heads(weights @ value)


def step_self_attention(qkv: Tensor, key: Tensor, value: Tensor, position: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of one token a row, which is appended to the row's cache at its position.

    Args:
        qkv: packed projections (S, 1, 3*H*D).
        key: cache (S, H, T, D).
        value: cache (S, H, T, D).
        position: int32 (S).
        num_heads: H.

    Returns:
        (S, 1, H*D), and the caches, which must be bound to the memory of the inputs.
    """
    total = total_length(key.shape[2])
    rows, _, packed = qkv.shape
    out = torch.onnx.ops.symbolic_multi_out(
        _OP,
        [qkv, None, None, key, value, position, total],
        {"num_heads": num_heads, "kv_num_heads": num_heads},
        dtypes=[qkv.dtype] * 3,
        shapes=[(rows, 1, packed // 3), key.shape, value.shape],
        version=1,
    )
    return out[0], out[1], out[2]


def step_cross_attention(
    query: Tensor, key: Tensor, value: Tensor, last: Tensor, num_heads: int, *, rewrites_last: bool = False
) -> list[Tensor]:
    """Attention of queries over each request's memory.

    Args:
        query: (R, 1, H*G*D), heads ordered (H, G).
        key: memory's keys (R, H, L, D).
        value: memory's values (R, H, L, D).
        last: int32 (R), index of each source's last position.
        num_heads: H.
        rewrites_last: append the last position's own keys and values where they stand, and not nothing. For CUDA: its kernel
            appends as many positions as there are queries, also if it is given none.

    Returns:
        (R, 1, H*G*D), and the two memories, which must be bound to the memory of the inputs.
    """
    requests, capacity, d_head = key.shape[0], key.shape[2], key.shape[3]
    new = [query.new_zeros((1, 0, num_heads * d_head)).expand(requests, 0, num_heads * d_head)] * 2
    if rewrites_last:
        at_last = last.long().view(-1, 1, 1, 1).expand(-1, num_heads, 1, d_head)
        new = [part.gather(2, at_last).view(-1, 1, num_heads * d_head) for part in (key, value)]
    attributes: dict[str, Any] = {"num_heads": query.shape[-1] // d_head, "kv_num_heads": num_heads}
    outputs = torch.onnx.ops.symbolic_multi_out(
        _OP,
        [query, *new, key, value, last, total_length(capacity)],
        attributes,
        dtypes=[query.dtype] * 3,
        shapes=[query.shape, key.shape, value.shape],
        version=1,
    )
    return list(outputs)


def cross_weights(query: Tensor, key: Tensor, last: Tensor) -> Tensor:
    """The weights of :func:`step_cross_attention`, computed separately: equation 1 of Vaswani et al. 2017 up to the softmax.

    The operator can return its weights too, but then the last bits of its values differ, and an answer must not depend on whether
    attention is requested. Each query is a separate product, for every group size.

    Args:
        query: (R, H, G, 1, D).
        key: memory's keys (R, H, L, D).
        last: int32 (R), index of each source's last position.

    Returns:
        (R, H, G, 1, L), zero after ``last``.
    """
    scores = query @ key.unsqueeze(2).transpose(-2, -1) / math.sqrt(key.shape[-1])
    weights: Tensor = scores.masked_fill(_is_hidden(key.shape[2], last)[:, None, None, None], MASKED_SCORE).softmax(-1)
    return weights


def _is_hidden(length: int, last: Tensor) -> Tensor:
    """Returns which positions come after each row's last one: bool (rows, length)."""
    return torch.arange(length, dtype=torch.int32) > last[:, None]
