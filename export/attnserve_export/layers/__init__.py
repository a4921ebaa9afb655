# SPDX-License-Identifier: Apache-2.0
"""Layers that several papers share, one topic in each file."""
