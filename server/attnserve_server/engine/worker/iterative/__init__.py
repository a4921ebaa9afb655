# SPDX-License-Identifier: Apache-2.0
"""The engine of models that decode step by step: in-flight batching over slots."""
