# SPDX-License-Identifier: Apache-2.0
"""Fakes of parts of the system for tests, one for each part. They have no tests themselves."""
