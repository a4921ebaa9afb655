# SPDX-License-Identifier: Apache-2.0
"""The attnserve server: serves bundles over gRPC with in-flight batching."""

import os

# Read when gRPC is imported: its fork handlers stop its threads, and cannot start them again where the system refuses any.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Read when ONNX Runtime is imported: it would write a device id and an event store into HOME, and send usage data.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

COMMANDS = {
    "serve": ("Run a server.", "server,cpu"),
    "debug": ("Show what a running server does.", "server,cpu"),
    "profile": ("Measure where a model's time goes.", "server,cpu"),
}
"""This package's commands, for `attnserve` to list without importing them: a help line and the extras that they need."""
