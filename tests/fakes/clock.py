# SPDX-License-Identifier: Apache-2.0
"""A fake clock."""

from __future__ import annotations


class Clock:
    """A clock that advances only when a test advances it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now
