# SPDX-License-Identifier: Apache-2.0
"""Attention models in PyTorch: their training, and their export to attnserve bundles."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported

COMMANDS = {
    "train": ("Train a model.", "export,cpu"),
    "export": ("Export a trained model to a bundle.", "export,cpu"),
}
"""The commands of this package, for `attnserve --help` without importing them: one line of help, and the extras they need."""
