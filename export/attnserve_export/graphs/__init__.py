# SPDX-License-Identifier: Apache-2.0
"""The graphs of each architecture: the traced encode and step modules, and the state that passes between them."""
