# SPDX-License-Identifier: Apache-2.0
"""The engine of single-pass models, and its golden answers."""
