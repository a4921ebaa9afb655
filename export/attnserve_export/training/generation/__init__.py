# SPDX-License-Identifier: Apache-2.0
"""Training and judging of image generators."""
