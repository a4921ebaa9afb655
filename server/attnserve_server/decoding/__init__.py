# SPDX-License-Identifier: Apache-2.0
"""Search: chooses the tokens of each hypothesis from a step's log-probabilities."""
