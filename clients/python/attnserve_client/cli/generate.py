# SPDX-License-Identifier: Apache-2.0
"""``attnserve generate``: generates images of a class."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import output
from attnserve_client.cli.options import AsJson, ModelId, Timeout, takes_keywords
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.errors import ToolError
from attnserve_client.generation_types import Generation
from attnserve_client.options import GenerateKeywords

_PIXEL = re.compile(r"\s*(\d{1,9})\s*,\s*(\d{1,9})\s*")
_MIDDLE = "16,16"


@takes_server
@takes_keywords(but=("grid", "attention_at"))
def generate(
    class_name: Annotated[
        str, typer.Option("--class", metavar="NAME", help="Class of the images; an unknown one gets the list of classes.")
    ],
    server: Server = DEFAULT_SERVER,
    model: ModelId = "",
    *,
    keywords: GenerateKeywords,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.png", help="Write all images as a grid into a file.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Write each image into a file of this folder.")
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option("--attention", metavar="FILE.png", help="Draw the self-attention of the pixel --at in each image."),
    ] = None,
    at: Annotated[
        str, typer.Option("--at", metavar="X,Y", help="Pixel (column, row) whose attention --attention draws.")
    ] = _MIDDLE,
    as_json: AsJson = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Generate images of a class: write them into files, and print their number and seed, which makes them again."""
    if out is None and folder is None and attention is None and not as_json:
        raise typer.BadParameter("give --out, --folder, --attention or --json")
    if out is not None and out.suffix.lower() != ".png":
        raise typer.BadParameter(f"the grid is a PNG file: its name must end in .png, not {out.name!r}", param_hint="--out")
    if at != _MIDDLE and attention is None:
        raise typer.BadParameter("it takes --attention, which draws the attention of this pixel", param_hint="--at")
    output.check_file(out, "--out")
    output.check_file(attention, "--attention")
    keywords["grid"] = True
    if attention is not None:
        keywords["attention_at"] = _pixel(at)
    with server.client(timeout=timeout) as client:
        answer = client.generate_image(class_name, model=model, **keywords)
    _print(answer, class_name, as_json=as_json)  # first: where a file cannot be written, the seed makes the images again
    if out is not None:
        _write(out, answer.files[0])
    if folder is not None:
        _write_each(folder, class_name, answer)
    if attention is not None:
        with output.drawing(attention, "the attention "):
            from attnserve_client.generation_plot import save_attention

            save_attention(attention, answer)


def _pixel(text: str) -> tuple[int, int]:
    found = _PIXEL.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"must be a column and a row, such as {_MIDDLE}, not {text!r}", param_hint="--at")
    return int(found[1]), int(found[2])


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ToolError(f"cannot write {path}: {error.strerror or error}") from error


def _write_each(folder: Path, class_name: str, answer: Generation) -> None:
    """Writes files that are named after class, seed and index.

    Raises:
        ToolError: the folder or a file cannot be written.
    """
    with output.drawing(folder, "the images "):
        from PIL import Image

        folder.mkdir(parents=True, exist_ok=True)
        for index, pixels in enumerate(answer.pixels()):
            Image.fromarray(pixels).save(folder / f"{class_name}-{answer.seed}-{index:02d}.png")


def _print(answer: Generation, class_name: str, *, as_json: bool) -> None:
    if as_json:
        fields = output.json_of(answer)
        del fields["files"]
        output.print_json({"class_name": class_name, **fields})
    else:
        images = "1 image" if answer.count == 1 else f"{answer.count} images"
        print(f"{images} of {class_name}, seed {answer.seed}, by {answer.model}", flush=True)
