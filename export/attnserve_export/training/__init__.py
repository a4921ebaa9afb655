# SPDX-License-Identifier: Apache-2.0
"""Training: data, loop, checkpoints, selection. Run by `attnserve train CONFIG`."""
