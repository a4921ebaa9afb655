# SPDX-License-Identifier: Apache-2.0
"""Clips that were encoded as video files, by which a model learns to ignore what encoding changes. Needs PyAV.

The data set's frames are single JPEG files, whose artefacts change from frame to frame. A codec removes them, and adds others.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from attnserve_export.models.nonlocal_video import FRAME_SIZE
from attnserve_export.recipe.base import RecipeError
from attnserve_export.training.video.data import Pixels, sample_frames


class Encoding(NamedTuple):
    """Codec, and width and height to which frames are scaled before they are encoded."""

    codec: str
    width: int
    height: int

    @property
    def name(self) -> str:
        """Name in files: ``h264-112-112``."""
        return "-".join(map(str, self))


ENCODINGS = tuple(
    Encoding(*each) for each in (("h264", 112, 112), ("h264", 320, 240), ("gif", 112, 112), ("vp9", 112, 112), ("vp9", 320, 240))
)
"""Those that a model is adapted to."""
_RATE = 15
"""Frames of a second."""
_ENCODERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("mp4", "libx264", {"crf": "23", "threads": "1"}),
    "vp9": ("webm", "libvpx-vp9", {"crf": "31", "b": "0", "deadline": "good", "cpu-used": "4", "threads": "1"}),
}
"""Container, encoder and its options: the encoders' own default qualities."""


def through_file(clip: Pixels, encoding: Encoding) -> Pixels:
    """Encodes a clip and decodes it again: (T, 112, 112, 3) -> the same shape.

    Frames are scaled as the server does it, by bicubic interpolation. Equal frames may be one in a GIF file; they are repeated.

    Raises:
        RecipeError: PyAV is not installed, or there is no encoder of that name.
    """
    if encoding.codec not in (*_ENCODERS, "gif"):
        raise RecipeError(f"no encoder for {encoding.codec}; there are {', '.join((*_ENCODERS, 'gif'))}")
    av, file = _library(), io.BytesIO()
    frames = [_scaled(Image.fromarray(frame), (encoding.width, encoding.height)) for frame in clip]
    if encoding.codec == "gif":
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=1000 // _RATE, loop=0)
    else:
        _encode(av, file, frames, encoding)
    file.seek(0)
    with av.open(file) as given:
        found = [np.asarray(_scaled(frame.to_image(), (FRAME_SIZE, FRAME_SIZE))) for frame in given.decode(video=0)]
    return np.stack([found[index] for index in sample_frames(len(found), len(clip))])


def _encode(av: Any, file: io.BytesIO, frames: list[Image.Image], encoding: Encoding) -> None:
    container, encoder, options = _ENCODERS[encoding.codec]
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(encoder, rate=_RATE, options=options)
        stream.width, stream.height = encoding.width, encoding.height
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_image(frame)))
        output.mux(stream.encode(None))


def _scaled(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    return frame if frame.size == size else frame.resize(size, Image.Resampling.BICUBIC)


def _library() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise RecipeError('encoding clips needs PyAV: pip install "attnserve[video]"') from error
    return av
