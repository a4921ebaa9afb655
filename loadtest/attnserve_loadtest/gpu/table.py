# SPDX-License-Identifier: Apache-2.0
"""The closing table: the status of each check and its main figures, in few enough lines for a screen or a log's tail."""

from __future__ import annotations

from collections.abc import Sequence

from attnserve_loadtest.gpu.results import SUMMARY, Result, reason

MOST_LINES, MOST_COLUMNS = 40, 240


def table(results: Sequence[Result]) -> list[str]:
    """At most 40 lines: one for each check, then those of its figures for which there is room, taken from the checks in turn."""
    heads = [_head(result) for result in results]
    room = MOST_LINES - len(heads)
    details = [[f"    {line}" for line in result.figures.get(SUMMARY, [])] for result in results]
    shown = [0] * len(results)
    while room > 0 and any(count < len(lines) for count, lines in zip(shown, details, strict=True)):
        for index, lines in enumerate(details):
            if room > 0 and shown[index] < len(lines):
                shown[index] += 1
                room -= 1
    lines = [line for head, count, each in zip(heads, shown, details, strict=True) for line in (head, *each[:count])]
    return [line[:MOST_COLUMNS] for line in lines[:MOST_LINES]]


def _head(result: Result) -> str:
    return f"{result.name:<14} {result.status:<9} {result.seconds:6.1f} s{reason(result)}"
