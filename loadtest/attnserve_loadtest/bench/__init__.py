# SPDX-License-Identifier: Apache-2.0
"""Speed as ratios of interleaved rounds: against CTranslate2 with the same weights, or against another source tree."""
