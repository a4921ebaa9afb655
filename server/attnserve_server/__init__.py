# SPDX-License-Identifier: Apache-2.0
"""The attnserve server: bundles in, gRPC out, an in-flight batch between them."""

__version__ = "0.1.0"
