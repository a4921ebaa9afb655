# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime against PyTorch, and the engine against itself: what is asked in company is answered as if alone."""
