# SPDX-License-Identifier: Apache-2.0
"""Renders the demo's clip: ``python -m attnserve_client.demo.clip FILE.mp4``. It needs the extra ``video``.

Two figures stand in a yard; after a second they run at each other and strike. Nothing of it is random.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

SIZE = 320, 240
FRAMES, RATE = 48, 24
"""Number of frames, and frames of a second."""
_CALM = 16
"""Frames before the figures move."""
_GROUND, _WALL, _STONE = "#8a8577", "#b9b3a4", "#9d9686"
_FIGURES = ("#2b3a55", "#6b2d2d")
_SCALE = 3
"""Figures are drawn larger and scaled down, so that their edges are smooth."""


def frame(number: int) -> Image.Image:
    """Returns a frame, RGB, 320 x 240."""
    width, height = (_SCALE * side for side in SIZE)
    image = Image.new("RGB", (width, height), _WALL)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, int(0.62 * height), width, height), fill=_GROUND)
    for row in range(6):
        for column in range(9):
            left, top = (column + row % 2 / 2 - 0.5) * width / 8, row * 0.62 * height / 6
            draw.rectangle((left, top, left + width / 8 - 6, top + 0.62 * height / 6 - 6), outline=_STONE, width=3)
    moved = max(number - _CALM, 0)
    near = min(moved / 10, 1.0)
    for side, colour in zip((-1, 1), _FIGURES, strict=True):
        x = 0.5 + side * (0.28 - 0.21 * near)
        if near == 1.0:
            x += 0.03 * math.sin(1.7 * moved + side)
        _draw_figure(draw, x * width, 0.9 * height, -side, moved if near > 0 else 0, colour)
    return image.resize(SIZE, Image.Resampling.LANCZOS)


def _draw_figure(draw: ImageDraw.ImageDraw, x: float, ground: float, facing: int, moved: int, colour: str) -> None:
    """Draws a figure that stands at ``x``; from the first move on its limbs swing."""
    unit = 0.62 * _SCALE * SIZE[1] / 8
    swing = math.sin(1.3 * moved + facing) if moved else 0.0
    hip, neck, thick = ground - 3.6 * unit, ground - 6.4 * unit, int(0.55 * unit)
    lean = 0.5 * unit * swing
    for leg in (-1, 1):
        draw.line((x, hip, x + leg * (0.7 + 0.8 * abs(swing)) * unit, ground), fill=colour, width=thick)
    draw.line((x, hip, x + lean, neck), fill=colour, width=int(1.6 * thick))
    for arm in (-1, 1):
        angle = 1.2 * arm if not moved else facing * (0.2 + 0.5 * arm) + 1.5 * math.sin(2.1 * moved + arm + facing)
        reach = 2.6 * unit
        hand = x + lean + reach * math.sin(angle + facing * (1.2 if moved else 0)), neck + reach * math.cos(angle)
        draw.line((x + lean, neck + 0.3 * unit, *hand), fill=colour, width=thick)
    top = neck - 1.7 * unit
    draw.ellipse((x + lean - 0.8 * unit, top, x + lean + 0.8 * unit, top + 1.6 * unit), fill="#d9b08c")


def encode(path: Path) -> None:
    """Writes the clip as H.264."""
    import av

    frames: Any = av.VideoFrame
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as file:
        stream: Any = file.add_stream("libx264", rate=RATE, options={"crf": "26", "threads": "1"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(FRAMES):
            for packet in stream.encode(frames.from_image(frame(number))):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)


if __name__ == "__main__":
    encode(Path(sys.argv[1]))
