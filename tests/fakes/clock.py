# SPDX-License-Identifier: Apache-2.0
"""A clock that is set by hand."""

from __future__ import annotations


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now
