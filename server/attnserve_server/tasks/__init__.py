# SPDX-License-Identifier: Apache-2.0
"""What a task adds around the engine: from a request's text to tokens, and back."""
