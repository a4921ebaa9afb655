# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime against PyTorch, and the engine against itself: answers in a batch equal answers alone."""
