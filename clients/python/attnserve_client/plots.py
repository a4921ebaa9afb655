# SPDX-License-Identifier: Apache-2.0
"""Images of measurements: BLEU by source length, and pages of alignments side by side. Needs the extra ``cli``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attnserve_client.attention_plot import INK, Panel

_COLORS = ("#e4572e", "#2a9d8f", "#4a6fd4", "#8d5fd3", "#b08900")
_GAP_IN = 0.3
FORMATS = tuple(sorted(FigureCanvasAgg.get_supported_filetypes()))
"""Supported file suffixes."""
PAGE_DPI = 90


@dataclass(frozen=True, slots=True)
class LengthCurve:
    """One model's scores, a value for each group of lengths."""

    name: str
    scores: Sequence[float]


def save_length_curves(
    path: Path, labels: Sequence[str], counts: Sequence[int], curves: Sequence[LengthCurve], metric: str
) -> None:
    """Draws scores by source length (as in Figure 2 of Bahdanau et al. 2015), with the number of sentences of each length.

    Args:
        path: the file to write; its suffix selects the format.
        labels: the groups of lengths, in words.
        counts: number of sentences of each group.
        curves: one for each model.
        metric: label of the scores.

    Raises:
        OSError: the file cannot be written.
        ValueError: the format is not supported.
    """
    figure = Figure(figsize=(7.5, 4.4), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
    places = range(len(labels))
    for curve, color in zip(curves, itertools.cycle(_COLORS), strict=False):
        upper.plot(places, curve.scores, marker="o", color=color, linewidth=2, label=curve.name)
    upper.set_ylabel(metric, color=INK)
    upper.set_ylim(bottom=0)
    upper.grid(axis="y", color="#d9dee3", linewidth=0.7)
    upper.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=9)
    lower.bar(places, counts, color="#c3ccd5", width=0.6)
    lower.set_ylabel("sentences", color=INK, fontsize=8)
    lower.set_xticks(places, labels=labels)
    lower.set_xlabel("words of the source", color=INK)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
    figure.savefig(path, dpi=PAGE_DPI)


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """One matrix of a page: weights (T_tgt, T_src) and their labels."""

    title: str
    weights: NDArray[np.float32]
    source: Sequence[str]
    target: Sequence[str]


def save_page(path: Path, rows: Sequence[Sequence[AttentionMap]]) -> None:
    """Draws a page of maps; those of a row are side by side.

    Raises:
        OSError: the file cannot be written.
        ValueError: the format is not supported, or the number of labels differs from the shape of the weights.
    """
    panels = [[Panel(each.weights, source=each.source, target=each.target, title=each.title) for each in row] for row in rows]
    widths = [max(row[column].width for row in panels if column < len(row)) for column in range(max(map(len, panels)))]
    heights = [max(panel.height for panel in row) for row in panels]
    size = sum(widths) + _GAP_IN * (len(widths) - 1), sum(heights) + _GAP_IN * (len(heights) - 1)
    figure = Figure(figsize=size, facecolor="white")
    FigureCanvasAgg(figure)
    top = size[1]
    for row, height in zip(panels, heights, strict=True):
        left = 0.0
        for panel, width in zip(row, widths, strict=False):
            panel.draw(figure, left, top)
            left += width + _GAP_IN
        top -= height + _GAP_IN
    figure.savefig(path, dpi=PAGE_DPI)
