# SPDX-License-Identifier: Apache-2.0
"""``attnserve caption``: describes photos, or folders of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import output
from attnserve_client.cli.images import MOST_DRAWN, ImagePaths, answered, find_images, read_image, reported
from attnserve_client.cli.options import AsJson, ImagesInFlight, ModelId, Timeout, takes_keywords
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.options import CaptionKeywords
from attnserve_client.types import Caption


@takes_server
@takes_keywords()
def caption(
    images: ImagePaths,
    server: Server = DEFAULT_SERVER,
    model: ModelId = "",
    *,
    keywords: CaptionKeywords,
    attention: Annotated[
        Path | None, typer.Option("--attention", metavar="FILE.png", help="Draw each word's attention over the photo into a file.")
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print words as they arrive.")] = False,
    as_json: AsJson = False,
    max_in_flight: ImagesInFlight = 16,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Describe photos: print the caption of one photo, or a line with name and caption for each of several.

    With several photos, an error is reported in its photo's place, and the exit code is 1 at the end.
    """
    paths = find_images(images)
    if attention is not None and (len(paths) > MOST_DRAWN or stream):
        raise typer.BadParameter(f"supports at most {MOST_DRAWN} images, and no --stream", param_hint="--attention")
    output.check_file(attention, "--attention")
    keywords["return_attention"] = attention is not None
    num_hypotheses = keywords.get("num_hypotheses") or 1
    failures, drawn = output.Failures(is_single=len(paths) == 1 and images[0].is_file()), list[tuple[Caption, Path]]()
    with server.client(timeout=timeout) as client:
        if stream:
            for path in paths:
                with reported(failures, path):
                    events = client.caption_stream(read_image(path), model=model, **keywords)
                    output.print_stream(events, as_json=as_json, context={"image": str(path)})
        else:
            answers = client.caption_many(paths, model=model, max_in_flight=max_in_flight, **keywords)
            for path, answer in answered(paths, answers, failures, "describing"):
                name = "" if failures.is_single else f"{path}\t"
                output.print_answer(answer, num_hypotheses, as_json=as_json, prefix=name, context={"image": str(path)})
                drawn.append((answer, path))
    if attention is not None and drawn:
        _draw(attention, drawn)
    failures.end(len(paths), "images could not be described")


def _draw(file: Path, answers: Sequence[tuple[Caption, Path]]) -> None:
    with output.drawing(file, "the attention "):
        from attnserve_client.caption_plot import save_stories

        save_stories(file, [(answer, read_image(path)) for answer, path in answers])
