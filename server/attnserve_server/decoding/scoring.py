# SPDX-License-Identifier: Apache-2.0
"""The score by which finished hypotheses are ranked: Wu et al. 2016 (GNMT), section 7, with the length itself as the norm."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from attnserve_server.request import DecodeOptions

_LEAST_COVERAGE = 1e-9
"""A source token that was never looked at would make the score minus infinity."""


def score(total: float, num_tokens: int, options: DecodeOptions, covered: npt.NDArray[np.float64] | None = None) -> float:
    """Returns ``total / num_tokens ** length_penalty + coverage_penalty * sum(log(min(covered, 1)))``.

    Args:
        total: sum of natural log-probabilities, the end symbol's included.
        num_tokens: length, the end symbol included.
        options: the two penalties.
        covered: (num_source,), the attention that each source token has received; needed where there is a coverage penalty.
    """
    value = total / math.pow(num_tokens, options.length_penalty)
    if covered is not None:
        value += options.coverage_penalty * float(np.log(np.clip(covered, _LEAST_COVERAGE, 1.0)).sum())
    return value
