# SPDX-License-Identifier: Apache-2.0
"""What a GPU shows that no other machine can: whether CUDA agrees with the CPU, and how fast a step is against its floor."""
