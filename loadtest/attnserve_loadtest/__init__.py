# SPDX-License-Identifier: Apache-2.0
"""Load tests of a running server, and comparisons with peers."""
