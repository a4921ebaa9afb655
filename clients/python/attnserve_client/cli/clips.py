# SPDX-License-Identifier: Apache-2.0
"""The labelled clips of an evaluation, and clips encoded as files."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from attnserve_client.errors import ToolError

CLASSES = ("noFight", "fight")
"""Names of the data set's labels."""
RATE = 15
"""Frames of a second of an encoded clip."""
CODECS = ("h264", "vp9", "gif")
_ENCODERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("mp4", "libx264", {"crf": "23", "threads": "1"}),
    "vp9": ("webm", "libvpx-vp9", {"crf": "31", "b": "0", "deadline": "good", "cpu-used": "4", "threads": "1"}),
}
"""Container, encoder and its options: the encoders' own default qualities."""

FightFolder = Annotated[
    Path | None,
    typer.Option("--data", envvar="ATTNSERVE_DATA", metavar="DIR", help="Folder of data sets, with fight_video/ in it."),
]
SplitName = Annotated[str, typer.Option("--split", metavar="NAME", help="Split of the data set.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N clips.")]


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """A clip: its name, its frames, and the name of its class."""

    name: str
    frames: tuple[Image.Image, ...]
    label: str

    def files(self) -> list[bytes]:
        """Returns the frames as PNG files, which lose nothing."""
        return [_png(frame) for frame in self.frames]


def read_fight_video(data: Path | None, split: str, limit: int | None) -> list[LabelledClip]:
    """Reads a split of the fight clips, in the order of its archive.

    Raises:
        ToolError: the data set is missing or invalid.
    """
    if data is None:
        raise ToolError("name the folder of data sets with --data or ATTNSERVE_DATA")
    folder = data / "fight_video"
    if not folder.is_dir():
        raise ToolError(f"no folder {folder}: --data (or ATTNSERVE_DATA) must name the folder that holds fight_video/")
    file = folder / f"{split}.tar"
    if not file.is_file():
        raise ToolError(f"no file {file}: is {split} a split of fight_video?")
    found: list[LabelledClip] = []
    try:
        facts = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
        with tarfile.open(file) as tar:
            for member in tar:
                if len(found) == limit:
                    break
                if (content := tar.extractfile(member)) is not None:
                    name = Path(member.name).stem
                    found.append(LabelledClip(name, _frames(content.read()), CLASSES[facts[name]["label"]]))
    except (OSError, KeyError, IndexError, ValueError, tarfile.TarError) as error:
        raise ToolError(f"cannot read {file}: {error}") from error
    return found


def encoded(frames: tuple[Image.Image, ...], codec: str, size: tuple[int, int]) -> bytes:
    """Returns a clip as a file.

    Args:
        frames: at least one.
        codec: one of ``CODECS``.
        size: width and height to which the frames are scaled.

    Raises:
        ToolError: PyAV is not installed.
    """
    scaled = [frame if frame.size == size else frame.resize(size, Image.Resampling.BICUBIC) for frame in frames]
    file = io.BytesIO()
    if codec == "gif":
        scaled[0].save(file, "GIF", save_all=True, append_images=scaled[1:], duration=1000 // RATE, loop=0)
        return file.getvalue()
    try:
        import av
    except ModuleNotFoundError as error:
        raise ToolError('encoding clips needs PyAV: pip install "attnserve[video]"') from error
    container, encoder, options = _ENCODERS[codec]
    maker: Any = av.VideoFrame
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(encoder, rate=RATE, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for frame in scaled:
            output.mux(stream.encode(maker.from_image(frame)))
        output.mux(stream.encode(None))
    return file.getvalue()


def _frames(strip: bytes) -> tuple[Image.Image, ...]:
    """Cuts a strip into its square frames."""
    with Image.open(io.BytesIO(strip)) as file:
        whole = file.convert("RGB")
    side = whole.width
    if whole.height % side:
        raise ValueError(f"a strip of {whole.width} x {whole.height} has no square frames")
    return tuple(whole.crop((0, top, side, top + side)) for top in range(0, whole.height, side))


def _png(frame: Image.Image) -> bytes:
    file = io.BytesIO()
    frame.save(file, "PNG", compress_level=1)
    return file.getvalue()
