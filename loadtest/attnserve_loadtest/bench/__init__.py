# SPDX-License-Identifier: Apache-2.0
"""Speed as ratios of interleaved rounds: against the best peer, CTranslate2 with the very same weights; or against another tree."""
