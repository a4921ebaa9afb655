# SPDX-License-Identifier: Apache-2.0
"""Features of clips that were encoded as video files, by which a model learns to ignore what encoding changes. Needs PyAV.

The data set's frames are single JPEG files, whose artefacts change from frame to frame. A codec removes them, and adds others.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from attnserve_export.models.nonlocal_video import CHANNELS, FRAME_SIZE, FRAMES, grid
from attnserve_export.recipe import RecipeError
from attnserve_export.training.trunk_session import trunk_session
from attnserve_export.training.video.data import Clips, Pixels, sample_frames
from attnserve_export.training.video.features import Features, pretrained_trunk

Encoding = tuple[str, int, int]
"""Codec, width and height."""
ENCODINGS: tuple[Encoding, ...] = (("h264", 112, 112), ("h264", 320, 240), ("gif", 112, 112), ("vp9", 112, 112))
_RATE = 15
_ENCODERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("mp4", "libx264", {"crf": "23", "threads": "1"}),
    "vp9": ("webm", "libvpx-vp9", {"crf": "31", "b": "0", "deadline": "good", "cpu-used": "4", "threads": "1"}),
}


def through_file(clip: Pixels, encoding: Encoding) -> Pixels:
    """Encodes a clip and decodes it again: (32, 112, 112, 3) -> the same shape.

    Raises:
        RecipeError: PyAV is not installed.
    """
    codec, *size = encoding
    file, found = io.BytesIO(), list[Image.Image]()
    frames = [Image.fromarray(frame).resize((size[0], size[1]), Image.Resampling.BICUBIC) for frame in clip]
    if codec == "gif":
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=1000 // _RATE, loop=0)
    av = _library()
    if codec in _ENCODERS:
        container, encoder, options = _ENCODERS[codec]
        with av.open(file, "w", format=container) as output:
            stream = output.add_stream(encoder, rate=_RATE, options=options)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                output.mux(stream.encode(av.VideoFrame.from_image(frame)))
            output.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as given:
        found += [frame.to_image() for frame in given.decode(video=0)]
    target = (FRAME_SIZE, FRAME_SIZE)
    scaled = [np.asarray(each.resize(target, Image.Resampling.BICUBIC)) for each in found]
    return np.stack([scaled[index] for index in sample_frames(len(found), len(clip))])  # equal frames may be one in a file


def encoded_features(folder: Path, split: str, clips: Clips, say: Callable[[str], None]) -> list[Features]:
    """Returns the features of all clips through each of :data:`ENCODINGS`, (clips, T', H', W', channels) each.

    They are computed once and kept in ``folder``.

    Raises:
        ValueError: an existing file has another shape.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_of_encoding(folder, split, clips, each, say) for each in ENCODINGS]


def _of_encoding(folder: Path, split: str, clips: Clips, encoding: Encoding, say: Callable[[str], None]) -> Features:
    path = folder / f"{split}-{'-'.join(map(str, encoding))}.npy"
    if not path.exists():
        say(f"computing features of {split} as {encoding}")
        example = torch.zeros(1, FRAMES, FRAME_SIZE, FRAME_SIZE, 3, dtype=torch.uint8)
        session = trunk_session(pretrained_trunk(), example, "clip")
        rows: list[npt.NDArray[Any]] = [
            np.asarray(session.run(None, {"clip": through_file(clip, encoding)[None]})[0]) for clip in clips.pixels
        ]
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, np.concatenate(rows).astype(np.float16))
        temporary.replace(path)
    found: Features = np.load(path)
    if found.shape != (len(clips), *grid(), CHANNELS):
        raise ValueError(f"{path} is of other clips: remove it")
    return found


def _library() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise RecipeError('encoding clips needs PyAV: pip install "attnserve[video]"') from error
    return av
