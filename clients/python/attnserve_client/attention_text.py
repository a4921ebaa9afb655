# SPDX-License-Identifier: Apache-2.0
"""Attention in a terminal: source pieces as columns, target pieces as rows, weights as shades. Needs the extra ``cli``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

_SHADES = " ░▒▓█"
_COLORS = ("", "#4a6fd4", "#2a9d8f", "#e09a2b", "#e4572e")  # legible on dark and on light backgrounds
_STYLES = tuple(Style(color=color or None) for color in _COLORS)
_HEAD_STYLE, _LABEL_STYLE, _LEGEND_STYLE = Style(dim=True), Style(bold=True), Style(dim=True)
_MAX_LABEL, _MAX_HEAD = 16, 12
_CELL_WIDTHS = (3, 2, 1)


class AttentionText:
    """A heat map that rich can print; a map wider than the terminal is split into bands of columns.

    Args:
        weights: (T_tgt, T_src), non-negative.
        source: labels of the columns.
        target: labels of the rows.
    """

    def __init__(self, weights: NDArray[np.float32], source: Sequence[str], target: Sequence[str]) -> None:
        if weights.shape != (len(target), len(source)):
            raise ValueError(f"weights of {weights.shape} do not fit {len(target)} target and {len(source)} source pieces")
        self._source, self._target = source, target
        self._max = max(float(weights.max()), 1e-6)
        top = len(_SHADES) - 1
        self._levels = np.ceil(weights / self._max * top - 0.5).clip(0, top).astype(int)  # nearest shade

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields the lines that fit the console's width."""
        label_width = min(_MAX_LABEL, max(cell_len(label) for label in self._target))
        room = max(8, options.max_width - label_width - 1)
        num_columns = len(self._source)
        cell = next((width for width in _CELL_WIDTHS if width * num_columns <= room), _CELL_WIDTHS[-1])
        band = room // cell
        for begin in range(0, num_columns, band):
            yield from self._band(range(begin, min(begin + band, num_columns)), label_width, cell)
        yield self._legend(label_width)

    def _band(self, columns: range, label_width: int, cell: int) -> RenderResult:
        heads = [_shortened(self._source[column], _MAX_HEAD) for column in columns]
        for depth in range(max(map(len, heads)), 0, -1):  # vertical labels, aligned at the map
            letters = (head[-depth] if depth <= len(head) else " " for head in heads)
            line = Text(" " * (label_width + 1), no_wrap=True)
            yield line.append("".join(letter.center(cell) for letter in letters), _HEAD_STYLE)
        for row, label in enumerate(self._target):
            shown = _shortened(label, label_width)
            line = Text(" " * (label_width - cell_len(shown)), no_wrap=True).append(f"{shown} ", _LABEL_STYLE)
            for column in columns:
                level = self._levels[row, column]
                line.append(_SHADES[level] * cell, _STYLES[level])
            yield line

    def _legend(self, label_width: int) -> Text:
        line = Text(" " * (label_width + 1) + "0 ", _LEGEND_STYLE, no_wrap=True)
        for shade, style in zip(_SHADES[1:], _STYLES[1:], strict=True):
            line.append(shade * 2, style)
        return line.append(f" {self._max:.2f}", _LEGEND_STYLE)


def _shortened(label: str, limit: int) -> str:
    return label if len(label) <= limit else label[: limit - 1] + "…"
