# SPDX-License-Identifier: Apache-2.0
"""``attnserve classify-video``: finds the most probable classes of a clip."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import output
from attnserve_client.cli.classify import classes_table
from attnserve_client.cli.images import find_images, read_image
from attnserve_client.cli.options import AsJson, ModelId, Timeout, takes_keywords
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.errors import ToolError
from attnserve_client.options import ClassifyVideoKeywords
from attnserve_client.video_convert import Clip
from attnserve_client.video_types import VideoClassification

DEFAULT_QUERY = (15, 0.5, 0.5)
"""The middle of the clip, if no position is named."""


@takes_server
@takes_keywords(but=("queries", "return_pictures"))
def classify_video(
    clip: Annotated[
        Path, typer.Argument(metavar="CLIP", help="MP4, WebM or GIF file, or a folder with the frames as image files.")
    ],
    server: Server = DEFAULT_SERVER,
    model: ModelId = "",
    *,
    keywords: ClassifyVideoKeywords,
    attention: Annotated[
        Path | None,
        typer.Option("--attention", metavar="FILE.png", help="Draw the attention of the positions over the sampled frames."),
    ] = None,
    positions: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="FRAME,X,Y",
            help="Position of the attention: index of a sampled frame, shares of its width and height. Repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Classify a clip: print a table of its classes, and which of its frames were read."""
    keywords["queries"] = [position(text) for text in positions or ()] or ([DEFAULT_QUERY] if attention is not None else [])
    if positions and attention is None and not as_json:
        raise typer.BadParameter("it takes --attention or --json, which show the attention of this position", param_hint="--at")
    output.check_file(attention, "--attention")
    keywords["return_pictures"] = attention is not None
    with server.client(timeout=timeout) as client:
        answer = client.classify_video(read_clip(clip), model=model, **keywords)
    if as_json:
        output.print_json({"clip": str(clip), **json_of(answer)})
    else:
        Console().print(classes_table(answer))
        Console().print(Text(frames_text(answer), "dim"))
    if attention is not None:
        with output.drawing(attention, "the attention "):
            from attnserve_client.video_plot import save_frames

            save_frames(attention, answer)


def position(text: str) -> tuple[int, float, float]:
    """Parses a position.

    Raises:
        BadParameter: it is not an integer and two numbers.
    """
    parts = text.split(",")
    try:
        frame, x, y = int(parts[0]), float(parts[1]), float(parts[2])
        if len(parts) > 3 or frame < 0:
            raise ValueError
    except (ValueError, IndexError):
        raise typer.BadParameter(f"{text!r} is not FRAME,X,Y, such as 15,0.5,0.5", param_hint="--at") from None
    return frame, x, y


def read_clip(path: Path) -> Clip:
    """Returns a file's bytes, or those of a folder's images, sorted by name: ``frame2.png`` comes before ``frame10.png``.

    Raises:
        ToolError: there is no such file or folder, or no image in it.
        InvalidRequest: a file cannot be read.
    """
    if path.is_dir():
        return [read_image(each) for each in sorted(find_images([path]), key=_numbers_by_value)]
    if not path.is_file():
        raise ToolError(f"no file or folder {path}")
    return read_image(path)


def _numbers_by_value(path: Path) -> list[tuple[str, int]]:
    """Returns a name's parts, each a text and the number after it."""
    return [(text, int(number or "-1")) for text, number in re.findall(r"([^0-9]*)([0-9]*)", path.name)]


def frames_text(answer: VideoClassification) -> str:
    """Returns which frames were read, in words."""
    distinct = sorted({frame.index for frame in answer.frames})
    seconds = answer.frames[-1].seconds if answer.frames else 0.0
    read = f"{len(distinct)} of {answer.clip_frames} frames"
    return f"{read}, to {seconds:.2f} s" if seconds else read


def json_of(answer: VideoClassification) -> dict[str, Any]:
    """Returns an answer for ``json.dumps``, without the pictures."""
    found: dict[str, Any] = output.json_of(answer)
    for frame in found["frames"]:
        del frame["picture"]
    return found
