# SPDX-License-Identifier: Apache-2.0
"""A class map in the terminal: coloured blocks, or letters where there are no colours. Needs the extra ``cli``."""

from __future__ import annotations

import itertools
import string

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from attnserve_client.pass_types import Segmentation

_COLUMNS = 72
_UPPER_HALF = "▀"


class ClassMapText:
    """Shows a coarse class map; each cell has the most frequent class of its pixels.

    Args:
        segmentation: what to show.
        columns: cells in a row, at most; fewer in a narrow terminal. In colours a cell is half a character high.
    """

    def __init__(self, segmentation: Segmentation, columns: int = _COLUMNS) -> None:
        self._segmentation, self._columns = segmentation, columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields the lines."""
        segmentation = self._segmentation
        columns = max(1, min(self._columns, options.max_width, segmentation.width))
        lines = max(1, round(columns * segmentation.height / segmentation.width / 2))
        if console.color_system is None:
            letters = letters_of([each.name for each in segmentation.classes])
            for row in coarse(segmentation.class_map, lines, columns):
                yield Text("".join(letters[index] for index in row), no_wrap=True)
            yield Text(", ".join(f"{letters[each.index]} {each.name}" for each in segmentation.present))
            return
        cells = coarse(segmentation.class_map, 2 * lines, columns)
        colours = ["#{:02x}{:02x}{:02x}".format(*each.colour) for each in segmentation.classes]
        for upper, lower in zip(cells[::2], cells[1::2], strict=True):
            line = Text(no_wrap=True)
            for above, below in zip(upper, lower, strict=True):
                line.append(_UPPER_HALF, f"{colours[above]} on {colours[below]}")
            yield line


def coarse(class_map: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.int64]:
    """Returns the most frequent class of each cell of a grid, (rows, columns); the smallest index of equally frequent ones.

    Args:
        class_map: (height, width).
        rows: of the grid; a cell of a grid that is finer than the map has the class of one pixel.
        columns: of the grid.
    """
    height, width = class_map.shape
    bounds = [
        [(count * index // parts, max(count * (index + 1) // parts, count * index // parts + 1)) for index in range(parts)]
        for count, parts in ((height, rows), (width, columns))
    ]
    found = [
        int(np.bincount(class_map[top:bottom, left:right].reshape(-1)).argmax())
        for (top, bottom), (left, right) in itertools.product(*bounds)
    ]
    return np.array(found).reshape(rows, columns)


def letters_of(names: list[str]) -> list[str]:
    """Returns a letter for each name: the first of its own that no earlier name has, or any other letter or digit; "?" at last."""
    taken: list[str] = []
    for name in names:
        own = [*name.upper(), *name.lower()]
        candidates = [each for each in [*own, *string.ascii_letters, *string.digits] if each.isalnum()]
        taken.append(next((each for each in candidates if each not in taken), "?"))
    return taken
