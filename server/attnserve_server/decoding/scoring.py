# SPDX-License-Identifier: Apache-2.0
"""The score that ranks finished hypotheses: Wu et al. 2016 (GNMT), section 7, normalized by a power of the length."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

_LEAST_COVERAGE = 1e-9
"""Lower bound of coverage: a source token without attention would make the score minus infinity."""


def normalize(total: float, num_tokens: int, length_penalty: float) -> float:
    """Returns ``total / num_tokens ** length_penalty``; ``num_tokens`` includes the end symbol."""
    return total / math.pow(num_tokens, length_penalty)


def coverage_term(covered: npt.NDArray[np.float64], coverage_penalty: float) -> float:
    """Equation 14: ``coverage_penalty * sum(log(min(covered, 1)))``.

    Args:
        covered: (num_source,), the total attention on each source token.
        coverage_penalty: its weight.
    """
    return coverage_penalty * float(np.log(np.clip(covered, _LEAST_COVERAGE, 1.0)).sum())
