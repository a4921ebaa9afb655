# SPDX-License-Identifier: Apache-2.0
"""The engine of iterative models: in-flight batching over slots."""
