# SPDX-License-Identifier: Apache-2.0
"""``attnserve classify``: finds the most probable classes of photos, or of folders of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import output
from attnserve_client.cli.images import MOST_DRAWN, ImagePaths, answered, find_images, read_image
from attnserve_client.cli.options import AsJson, ImagesInFlight, ModelId, Timeout, takes_keywords
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.options import ClassifyKeywords
from attnserve_client.pass_types import Classification
from attnserve_client.video_types import VideoClassification

_BAR_CELLS = 30


@takes_server
@takes_keywords()
def classify(
    images: ImagePaths,
    server: Server = DEFAULT_SERVER,
    model: ModelId = "",
    *,
    keywords: ClassifyKeywords,
    attention: Annotated[
        Path | None,
        typer.Option("--attention", metavar="FILE.png", help="Draw the maps and the channel weights of each block into a file."),
    ] = None,
    as_json: AsJson = False,
    max_in_flight: ImagesInFlight = 16,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Classify photos: print a table of the classes of one photo, or a line with name and classes for each of several.

    With several photos, an error is reported in its photo's place, and the exit code is 1 at the end.
    """
    paths = find_images(images)
    if attention is not None and len(paths) > MOST_DRAWN:
        raise typer.BadParameter(f"supports at most {MOST_DRAWN} images", param_hint="--attention")
    output.check_file(attention, "--attention")
    keywords["return_attention"] = attention is not None
    failures = output.Failures(is_single=len(paths) == 1 and images[0].is_file())
    drawn: list[tuple[Classification, Path]] = []
    with server.client(timeout=timeout) as client:
        answers = client.classify_many(paths, model=model, max_in_flight=max_in_flight, **keywords)
        for path, answer in answered(paths, answers, failures, "classifying"):
            _print(answer, path, as_json=as_json, is_single=failures.is_single)
            drawn.append((answer, path))
    if attention is not None and drawn:
        with output.drawing(attention, "the attention "):
            from attnserve_client.classification_plot import save_maps

            save_maps(attention, [(answer, read_image(path)) for answer, path in drawn])
    failures.end(len(paths), "images could not be classified")


def _print(answer: Classification, path: Path, *, as_json: bool, is_single: bool) -> None:
    if as_json:
        output.print_json({"image": str(path), **output.json_of(answer)})
    elif is_single:
        Console().print(classes_table(answer))
    else:
        classes = ", ".join(f"{each.name} {100 * each.probability:.1f} %" for each in answer.classes)
        print(f"{path}\t{classes}", flush=True)


def classes_table(answer: Classification | VideoClassification) -> Table:
    """Returns a table of the classes, most probable first, with a bar for each probability."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for each in answer.classes:
        bar = Text("█" * round(_BAR_CELLS * each.probability), "green")
        table.add_row(each.name, f"{100 * each.probability:.1f} %", bar)
    return table
