# SPDX-License-Identifier: Apache-2.0
"""``attnserve segment``: finds the class of each pixel of photos, or of folders of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import output
from attnserve_client.cli.images import ImagePaths, answered, files_for, find_images, read_image, reported
from attnserve_client.cli.options import AsJson, ImagesInFlight, ModelId, Timeout, takes_keywords
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.options import SegmentKeywords
from attnserve_client.pass_types import Segmentation

_PIXEL = re.compile(r"\s*(\d{1,9})\s*,\s*(\d{1,9})\s*")
_FOLDER = "With several images, a folder."


@takes_server
@takes_keywords(but=("return_unary", "queries", "format"))
def segment(
    images: ImagePaths,
    server: Server = DEFAULT_SERVER,
    model: ModelId = "",
    *,
    keywords: SegmentKeywords,
    overlay: Annotated[
        Path | None, typer.Option("--overlay", metavar="FILE", help=f"Write the photo under the classes' colours. {_FOLDER}")
    ] = None,
    class_map: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE.png", help=f"Write the class map as a PNG file with a palette. {_FOLDER}"),
    ] = None,
    queries: Annotated[
        list[str] | None,
        typer.Option("--query", metavar="X,Y", help="Pixel (column, row) whose pairwise attention is shown; up to 16."),
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option("--attention", metavar="FILE.png", help=f"Draw the unary map, and a map for each --query. {_FOLDER}"),
    ] = None,
    as_json: AsJson = False,
    max_in_flight: ImagesInFlight = 16,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Segment photos: print a table of the classes of one photo, or a line with name and classes for each of several.

    With --json, attention is printed if there is an --attention or a --query. With several photos, an error is reported in
    its photo's place, and the exit code is 1 at the end.
    """
    paths = find_images(images)
    keywords["queries"] = [_pixel(each) for each in queries or ()]
    if queries and attention is None and not as_json:
        raise typer.BadParameter("it takes --attention or --json, which show the attention of this pixel", param_hint="--query")
    keywords["return_unary"] = attention is not None or bool(queries)
    failures = output.Failures(is_single=len(paths) == 1 and images[0].is_file())
    wanted = {"--overlay": overlay, "--map": class_map, "--attention": attention}
    files = {option: files_for(paths, file, option, is_single=failures.is_single) for option, file in wanted.items()}
    places = {path: index for index, path in enumerate(paths)}
    with server.client(timeout=timeout) as client:
        answers = client.segment_many(paths, model=model, max_in_flight=max_in_flight, **keywords)
        for path, answer in answered(paths, answers, failures, "segmenting"):
            with reported(failures, path):
                _print(answer, path, as_json=as_json, is_single=failures.is_single)
                _write(answer, path, {option: of_all[places[path]] for option, of_all in files.items() if of_all is not None})
    failures.end(len(paths), "images could not be segmented")


def _pixel(text: str) -> tuple[int, int]:
    found = _PIXEL.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"must be a column and a row, such as 120,200, not {text!r}", param_hint="--query")
    return int(found[1]), int(found[2])


def _print(answer: Segmentation, path: Path, *, as_json: bool, is_single: bool) -> None:
    if as_json:
        fields = output.json_of(answer)
        del fields["class_map"]
        output.print_json({"image": str(path), "width": answer.width, "height": answer.height, **fields})
    elif is_single:
        Console().print(classes_table(answer))
    else:
        shares = ", ".join(f"{each.name} {100 * each.share:.1f} %" for each in answer.present)
        print(f"{path}\t{shares}", flush=True)


def classes_table(answer: Segmentation) -> Table:
    """Returns a table of the classes that have pixels, the largest first, each with its colour."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("class", no_wrap=True)
    for name in ("share", "confidence"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in answer.present:
        swatch = Text("██", "#{:02x}{:02x}{:02x}".format(*each.colour))
        table.add_row(swatch, each.name, f"{100 * each.share:.1f} %", f"{each.confidence:.2f}")
    return table


def _write(answer: Segmentation, path: Path, files: dict[str, Path]) -> None:
    """Writes an image's files, by option."""
    if not files:
        return
    with output.drawing(next(iter(files.values()))):
        from attnserve_client import segmentation_plot as plots
    image = read_image(path)
    writers: Sequence[tuple[str, str, Callable[[Path], Any]]] = (
        ("--overlay", "the overlay ", lambda file: plots.save_overlay(file, answer, image)),
        ("--map", "the class map ", lambda file: plots.save_class_map(file, answer)),
        ("--attention", "the attention ", lambda file: plots.save_attention(file, answer, image)),
    )
    for option, what, write in writers:
        if option in files:
            with output.drawing(files[option], what):
                write(files[option])
