# SPDX-License-Identifier: Apache-2.0
"""The maker's side: attention models in PyTorch, their training, and their export to attnserve bundles."""

COMMANDS = {
    "train": ("Train a model.", "export,cpu"),
    "export": ("Export a trained model to a bundle.", "export,cpu"),
}
"""What `attnserve` tells of this package's commands without importing them: a line for the list, and the extras they need."""
