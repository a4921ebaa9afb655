# SPDX-License-Identifier: Apache-2.0
"""The maker's side: attention models in PyTorch, their training, and their export to attnserve bundles."""
