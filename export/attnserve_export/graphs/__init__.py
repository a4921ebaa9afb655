# SPDX-License-Identifier: Apache-2.0
"""The graphs of each architecture: what is traced for encode and for step, and the state that goes between them."""
