# SPDX-License-Identifier: Apache-2.0
"""Sessions and state: the only ring that knows ONNX Runtime."""
