# SPDX-License-Identifier: Apache-2.0
"""The engine's parts: scheduling, search, slots, the batch over them, bundles, and the text side of a task."""
