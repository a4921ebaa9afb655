# SPDX-License-Identifier: Apache-2.0
"""Load tests of a running server, and comparisons with peers."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported
