# SPDX-License-Identifier: Apache-2.0
"""Reads and checks bundles and the model repository."""
