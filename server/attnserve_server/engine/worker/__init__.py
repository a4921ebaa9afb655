# SPDX-License-Identifier: Apache-2.0
"""A worker process: owns sessions and engines, and steps them."""
