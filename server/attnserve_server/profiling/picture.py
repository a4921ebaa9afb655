# SPDX-License-Identifier: Apache-2.0
"""Draws a profile as stacked bars, one by part and one by operator. Needs matplotlib (the extra ``cli``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from attnserve_server.profiling.measure import Profile, Share

_COLORS = ("#4a6fd4", "#2a9d8f", "#e4572e", "#8d5fd3", "#e09a2b", "#5b7083", "#b0517a", "#7aa33c")
_LEAST = 0.03
"""Smaller shares are drawn as one."""


def save_profile(path: Path, title: str, profile: Profile) -> None:
    """Draws a profile into a file, whose extension selects the format.

    Raises:
        OSError: the file cannot be written.
        ValueError: the format is unknown.
    """
    figure = Figure(figsize=(9.0, 3.2), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, (name, shares) in enumerate((("operators", profile.operators), ("parts", profile.parts))):
        left = 0.0
        for index, share in enumerate(_drawn(shares, profile.node_seconds)):
            width = share.seconds * 1e3
            axes.barh(place, width, left=left, height=0.62, color=_COLORS[index % len(_COLORS)], edgecolor="white")
            text = f"{share.name}\n{share.seconds / profile.node_seconds:.0%}"
            rotation = 0 if share.seconds > 0.1 * profile.node_seconds else 90
            axes.text(left + width / 2, place, text, ha="center", va="center", fontsize=7, color="white", rotation=rotation)
            left += width
        axes.text(0, place + 0.36, name, fontsize=9, va="bottom")
    axes.set_yticks([])
    axes.set_ylim(-0.5, 1.75)
    axes.set_xlabel("milliseconds in the nodes of one run")
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _drawn(shares: Sequence[Share], total: float) -> list[Share]:
    large = [share for share in shares if share.seconds >= _LEAST * total]
    small = [share for share in shares if share.seconds < _LEAST * total]
    rest = Share("others", sum(share.seconds for share in small), sum(share.num_nodes for share in small))
    return [*large, rest] if small else large
