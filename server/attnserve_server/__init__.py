# SPDX-License-Identifier: Apache-2.0
"""The attnserve server: bundles in, gRPC out, an in-flight batch between them."""

import os

# Read when gRPC is imported: its fork handlers stop its threads, and cannot start them again where the system refuses any.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

__version__ = "0.1.0"

COMMANDS = {
    "serve": ("Run a server.", "server,cpu"),
    "profile": ("Measure where a model's time goes.", "server,cpu"),
}
"""What `attnserve` tells of this package's commands without importing them: a line for the list, and the extras they need."""
