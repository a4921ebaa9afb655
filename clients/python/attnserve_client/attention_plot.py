# SPDX-License-Identifier: Apache-2.0
"""Attention as an image: a heat map with the source's pieces at the top and the target's at the left. Needs the extra ``cli``.

It uses matplotlib's objects, not ``pyplot``: no global state, no window, safe in any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attnserve_client.types import Translation

DPI = 150
_CELL_IN = 0.36
_LETTER_IN = 0.078
_MARGIN_IN = 0.35
_BAR_IN = 0.75
_TITLE_IN = 0.4
INK, _GRID = "#1f2933", "#ffffff"


def save_attention(path: Path, translation: Translation) -> tuple[int, int]:
    """Writes the best hypothesis' attention as an image; the file's suffix selects the format (default: PNG).

    Args:
        path: the file to write; its folder exists.
        translation: requested with ``return_attention="mean"``.

    Returns:
        Width and height in pixels (of a PNG).

    Raises:
        ValueError: the translation has no single attention matrix.
        OSError: the file cannot be written.
    """
    best = translation.best
    if best.attention is None or best.attention.ndim != 2:
        raise ValueError("the translation has no single attention matrix: request it with return_attention='mean'")
    figure = draw_attention(
        best.attention,
        source=[piece.label for piece in translation.source_pieces],
        target=[piece.label for piece in best.pieces],
        title=translation.model,
    )
    figure.savefig(path, dpi=DPI)
    width, height = figure.get_size_inches() * DPI
    return int(width), int(height)


def draw_attention(weights: NDArray[np.float32], *, source: Sequence[str], target: Sequence[str], title: str = "") -> Figure:
    """Returns a figure of weights (T_tgt, T_src), sized so that all labels are legible."""
    panel = Panel(weights, source=source, target=target, title=title)
    figure = Figure(figsize=(panel.width, panel.height), facecolor="white")
    FigureCanvasAgg(figure)
    panel.draw(figure, 0.0, panel.height)
    return figure


class Panel:
    """A heat map whose size is computed before it is drawn.

    Args:
        weights: (T_tgt, T_src).
        source: labels of the columns.
        target: labels of the rows.
        title: text above the map; "" for none.

    Attributes:
        width: inches.
        height: inches.

    Raises:
        ValueError: the number of labels differs from the shape of the weights.
    """

    def __init__(self, weights: NDArray[np.float32], *, source: Sequence[str], target: Sequence[str], title: str = "") -> None:
        rows, columns = weights.shape
        if (rows, columns) != (len(target), len(source)):
            raise ValueError(f"weights of {rows} × {columns} do not fit {len(target)} target and {len(source)} source pieces")
        self._weights, self._source, self._target, self._title = weights, source, target, title
        self._map = columns * _CELL_IN, rows * _CELL_IN
        self._left = _MARGIN_IN + _LETTER_IN * max(map(len, target))
        above = _MARGIN_IN + _LETTER_IN * max(map(len, source)) + (_TITLE_IN if title else 0)
        self.width = self._left + self._map[0] + _MARGIN_IN + _BAR_IN
        self.height = above + self._map[1] + _MARGIN_IN

    def draw(self, figure: Figure, left: float, top: float) -> None:
        """Draws the map into a figure; its upper left corner is ``left``, ``top`` inches from the figure's lower left corner."""
        size, (rows, columns) = figure.get_size_inches(), self._weights.shape
        x, y, (width, height) = left + self._left, top - self.height + _MARGIN_IN, self._map
        axes = figure.add_axes((x / size[0], y / size[1], width / size[0], height / size[1]))
        image = axes.imshow(self._weights, cmap="YlGnBu", vmin=0.0, vmax=max(float(self._weights.max()), 1e-6), aspect="auto")
        axes.set_xticks(range(columns), labels=self._source, rotation=90, fontsize=9, color=INK)
        axes.set_yticks(range(rows), labels=self._target, fontsize=9, color=INK)
        axes.tick_params(top=True, bottom=False, labeltop=True, labelbottom=False, length=0)
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=_GRID, linewidth=1.2)
        axes.tick_params(which="minor", length=0)
        axes.spines[:].set_visible(False)
        bar_axes = figure.add_axes(((x + width + 0.15) / size[0], y / size[1], 0.12 / size[0], height / size[1]))
        bar = figure.colorbar(image, cax=bar_axes)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7, length=2, colors=INK)
        if self._title:
            place = (left + _MARGIN_IN / 2) / size[0], (top - 0.3) / size[1]
            figure.text(*place, self._title, fontsize=10, fontweight="bold", color=INK)
