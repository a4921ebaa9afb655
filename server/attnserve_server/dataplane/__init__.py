# SPDX-License-Identifier: Apache-2.0
"""The path of a request that all protocols share: resolve the model, prepare, submit, render; in domain types."""
