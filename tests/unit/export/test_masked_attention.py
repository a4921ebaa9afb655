# SPDX-License-Identifier: Apache-2.0
"""The encoder's attention of CUDA graphs against equation 1, with rows of different lengths."""

from __future__ import annotations

import pytest
import torch

from attnserve_export.graphs.attention_ops import masked_encode_attention
from attnserve_export.layers.attention import merge_heads, scaled_dot_product_attention, split_heads

LAST, NUM_HEADS = torch.tensor([0, 3, 6], dtype=torch.int32), 4


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 2e-3)])
def test_padding_is_not_attended_to(dtype: torch.dtype, tolerance: float) -> None:
    qkv = torch.randn(3, 7, 3 * 32, generator=torch.Generator().manual_seed(1))
    found = masked_encode_attention(qkv.to(dtype), LAST, NUM_HEADS).float()
    for row, last in enumerate(LAST.tolist()):
        heads = [split_heads(part, NUM_HEADS) for part in qkv[row : row + 1, : last + 1].chunk(3, -1)]
        expected = merge_heads(scaled_dot_product_attention(*heads, torch.zeros(1, dtype=torch.bool))[0])
        assert (found[row, : last + 1] - expected[0]).abs().max() < tolerance
