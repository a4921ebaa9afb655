# SPDX-License-Identifier: Apache-2.0
"""Speed against the best peer: CTranslate2 with the very same weights, as ratios of interleaved rounds."""
