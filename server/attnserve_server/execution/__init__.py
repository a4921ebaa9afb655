# SPDX-License-Identifier: Apache-2.0
"""Sessions and state: the only package that uses ONNX Runtime."""
