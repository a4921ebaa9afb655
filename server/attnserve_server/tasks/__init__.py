# SPDX-License-Identifier: Apache-2.0
"""Tasks: preparation before the engine and rendering after it, such as text to tokens and back."""
