# SPDX-License-Identifier: Apache-2.0
"""Checks that need a GPU: whether CUDA agrees with the CPU, and the time of a step compared with its floor."""
