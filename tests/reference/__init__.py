# SPDX-License-Identifier: Apache-2.0
"""References in PyTorch and NumPy that the server's answers are compared with."""
