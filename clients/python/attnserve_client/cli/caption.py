# SPDX-License-Identifier: Apache-2.0
"""``attnserve caption``: describes photos, or folders of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import output
from attnserve_client.cli.options import AsJson, ImagesInFlight, ModelId, Timeout, takes_keywords
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.errors import AttnserveError, InvalidRequest, ToolError
from attnserve_client.options import CaptionKeywords
from attnserve_client.types import Caption

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""File suffixes of images, for searching a folder."""
_MOST_DRAWN = 20


@takes_server
@takes_keywords()
def caption(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="JPEG, PNG or WebP files, or folders of them.")],
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
    if attention is not None and (len(paths) > _MOST_DRAWN or stream):
        raise typer.BadParameter(f"supports at most {_MOST_DRAWN} images, and no --stream", param_hint="--attention")
    keywords["return_attention"] = attention is not None
    num_hypotheses = keywords.get("num_hypotheses") or 1
    is_single = len(paths) == 1 and images[0].is_file()
    failures, drawn = output.Failures(is_single=is_single), list[tuple[Caption, Path]]()
    with server.client(timeout=timeout) as client:
        if stream:
            for path in paths:
                with _reported(failures, path):
                    events = client.caption_stream(read_image(path), model=model, **keywords)
                    output.print_stream(events, as_json=as_json, context={"image": str(path)})
        else:
            answers = client.caption_many(paths, model=model, max_in_flight=max_in_flight, **keywords)
            with contextlib.closing(answers), output.progress("describing", len(paths), is_wanted=not is_single) as advance:
                for path, answer in zip(paths, answers, strict=True):
                    advance()
                    with _reported(failures, path):
                        if isinstance(answer, AttnserveError):
                            raise answer
                        name = "" if is_single else f"{path}\t"
                        output.print_answer(answer, num_hypotheses, as_json=as_json, prefix=name, context={"image": str(path)})
                        drawn.append((answer, path))
    if attention is not None and drawn:
        _draw(attention, drawn)
    failures.end(len(paths), "images could not be described")


@contextlib.contextmanager
def _reported(failures: output.Failures, path: Path) -> Iterator[None]:
    """Reports the error of one photo."""
    try:
        yield
    except AttnserveError as error:
        error.add_note(str(path))
        failures.report(error)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Returns the files in ``paths``, and the images in folders of ``paths``, sorted; images are found by suffix.

    Raises:
        ToolError: a path does not exist, or a folder has no images.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES and each.is_file())
            if not inside:
                raise ToolError(f"no image in {path}: looked for {', '.join(SUFFIXES)}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ToolError(f"no file or folder {path}")
    return found


def read_image(path: Path) -> bytes:
    """Returns a file's bytes.

    Raises:
        InvalidRequest: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror or error}", field="image") from error


def _draw(file: Path, answers: Sequence[tuple[Caption, Path]]) -> None:
    with output.drawing(file, "the attention "):
        from attnserve_client.caption_plot import save_stories

        save_stories(file, [(answer, read_image(path)) for answer, path in answers])
