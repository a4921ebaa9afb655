# SPDX-License-Identifier: Apache-2.0
"""Clips: files and frames to the input of a video model. Files are decoded in processes of their own."""
