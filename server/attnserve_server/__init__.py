# SPDX-License-Identifier: Apache-2.0
"""The attnserve server: bundles in, gRPC out, an in-flight batch between them."""

__version__ = "0.1.0"

COMMANDS = {
    "serve": ("Run a server.", "server,cpu"),
    "profile": ("Measure where a model's time goes.", "server,cpu"),
}
"""What `attnserve` tells of this package's commands without importing them: a line for the list, and the extras they need."""
