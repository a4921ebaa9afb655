# SPDX-License-Identifier: Apache-2.0
"""Draws the classification of a clip: its sampled frames, lit by the attention of a position over them."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from attnserve_client.attention_plot import INK
from attnserve_client.pictures import lit, save, upright
from attnserve_client.video_types import PositionMap, VideoClassification

_COLUMNS = 8
_TILE_IN = 1.15
_GAP_IN = 0.08
_LABEL_IN = 0.2
_TITLE_IN = 0.42
_MARK = "#e4572e"


def save_frames(path: Path, answer: VideoClassification) -> tuple[int, int]:
    """Writes the picture of :func:`draw_frames`; the file's suffix selects the format (default: PNG).

    Returns:
        Width and height in pixels (of a PNG).

    Raises:
        ValueError: the answer has no pictures.
        OSError: the file cannot be written, or a picture cannot be opened.
    """
    return save(draw_frames(answer), path)


def draw_frames(answer: VideoClassification) -> Figure:
    """Draws the sampled frames, eight in a row; for each query all of them, bright where its weights are largest in the clip.

    A circle marks the query in its frame. Without a query the frames are drawn as they are.

    Args:
        answer: requested with ``return_pictures=True``.

    Raises:
        ValueError: the answer has no pictures.
        OSError: a picture cannot be opened.
    """
    if not answer.frames or not all(frame.picture for frame in answer.frames):
        raise ValueError("the answer has no pictures: request it with return_pictures=True")
    maps: tuple[PositionMap | None, ...] = answer.attention or (None,)
    rows = math.ceil(len(answer.frames) / _COLUMNS)
    tile = _TILE_IN + _LABEL_IN
    width = _COLUMNS * (_TILE_IN + _GAP_IN) + _GAP_IN
    tall = _TITLE_IN + len(maps) * (rows * tile + _GAP_IN) + _GAP_IN
    figure = Figure(figsize=(width, tall), facecolor="white")
    FigureCanvasAgg(figure)
    title = ", ".join(f"{each.name} {100 * each.probability:.1f} %" for each in answer.classes)
    figure.text(_GAP_IN / width, (tall - 0.29) / tall, title, fontsize=11, fontweight="bold", color=INK)
    top = tall - _TITLE_IN
    for each in maps:
        _draw_clip(figure, answer, each, top)
        top -= rows * tile + _GAP_IN
    return figure


def _draw_clip(figure: Figure, answer: VideoClassification, attention: PositionMap | None, top: float) -> None:
    """Draws all frames below ``top``, in inches."""
    width, tall = figure.get_size_inches()
    for place, frame in enumerate(answer.frames):
        row, column = divmod(place, _COLUMNS)
        left = _GAP_IN + column * (_TILE_IN + _GAP_IN)
        bottom = top - (row + 1) * (_TILE_IN + _LABEL_IN)
        picture = upright(frame.picture)
        axes = figure.add_axes((left / width, bottom / tall, _TILE_IN / width, _TILE_IN / tall))
        if attention is not None:
            axes.imshow(lit(picture, attention.weights[frame.time], float(attention.weights.max())), aspect="auto")
            if attention.query[0] == place:
                height, wide = picture.shape[:2]
                centre = attention.query[1] * wide - 0.5, attention.query[2] * height - 0.5
                axes.add_patch(Circle(centre, 0.07 * wide, fill=False, color=_MARK, linewidth=1.6))
        else:
            axes.imshow(picture, aspect="auto")
        axes.set_axis_off()
        label = f"{frame.seconds:.2f} s" if frame.seconds or answer.frames[-1].seconds else f"frame {frame.index}"
        figure.text(left / width, (bottom + _TILE_IN + 0.04) / tall, label, fontsize=7, color=INK)
