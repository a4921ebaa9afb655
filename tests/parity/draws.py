# SPDX-License-Identifier: Apache-2.0
"""Tests whether drawn tokens follow a distribution."""

from __future__ import annotations

import numpy as np
import torch

LEAST_EXPECTED = 5.0


def p_value(tokens: list[int], probs: torch.Tensor) -> float:
    """How likely draws of ``probs`` (V,) are to be as far from it as ``tokens``, by Pearson's chi-square test.

    Tokens that are expected fewer than five times count as one; a token that cannot be drawn makes it zero.
    """
    expected = probs.double().numpy() * len(tokens)
    found = np.bincount(tokens, minlength=len(expected))
    if found[expected == 0.0].any():
        return 0.0
    is_rare = expected < LEAST_EXPECTED
    cells = np.append(expected[~is_rare], expected[is_rare].sum())
    counts = np.append(found[~is_rare], found[is_rare].sum())
    counts, cells = counts[cells > 0.0], cells[cells > 0.0]
    assert len(cells) > 1, "nothing is left to chance"
    statistic = ((counts - cells) ** 2 / cells).sum()
    return float(torch.special.gammaincc(torch.tensor((len(cells) - 1) / 2), torch.tensor(statistic / 2)))
