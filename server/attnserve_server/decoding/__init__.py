# SPDX-License-Identifier: Apache-2.0
"""Search: from a step's log-probabilities to the tokens of each hypothesis."""
