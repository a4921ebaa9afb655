# SPDX-License-Identifier: Apache-2.0
"""What stands in for a part of the system in tests: each part once. A fake has no tests of its own."""
