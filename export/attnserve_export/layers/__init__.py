# SPDX-License-Identifier: Apache-2.0
"""Blocks that several papers share, one idea a file."""
