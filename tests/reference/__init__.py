# SPDX-License-Identifier: Apache-2.0
"""Plain PyTorch references: what the server's answers are compared with."""
