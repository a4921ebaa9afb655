# SPDX-License-Identifier: Apache-2.0
"""Training: data, loop, checkpoints, selection. Driven by `attnserve train CONFIG`."""
