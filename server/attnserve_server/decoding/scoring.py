# SPDX-License-Identifier: Apache-2.0
"""The score by which finished hypotheses are ranked: Wu et al. 2016 (GNMT), section 7, with the length itself as the norm."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

_LEAST_COVERAGE = 1e-9
"""A source token that was never looked at would make the score minus infinity."""


def normalize(total: float, num_tokens: int, length_penalty: float) -> float:
    """The sum of log-probabilities over the length, end symbol included, to the power of the penalty."""
    return total / math.pow(num_tokens, length_penalty)


def coverage_term(covered: npt.NDArray[np.float64], coverage_penalty: float) -> float:
    """Equation 14: ``coverage_penalty * sum(log(min(covered, 1)))``.

    Args:
        covered: (num_source,), the attention that each source token has received.
        coverage_penalty: its weight.
    """
    return coverage_penalty * float(np.log(np.clip(covered, _LEAST_COVERAGE, 1.0)).sum())
