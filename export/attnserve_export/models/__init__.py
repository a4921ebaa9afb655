# SPDX-License-Identifier: Apache-2.0
"""The models, one paper in each file."""
