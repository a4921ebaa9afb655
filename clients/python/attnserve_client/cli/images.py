# SPDX-License-Identifier: Apache-2.0
"""The images of a command: found in folders, read, and answered one by one; shared by all tasks that read images."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from attnserve_client.cli import output
from attnserve_client.errors import AttnserveError, InvalidRequest, ToolError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""File suffixes of images, for searching a folder."""
MOST_DRAWN = 20
"""Answers that one picture shows at most."""
ImagePaths = Annotated[list[Path], typer.Argument(metavar="IMAGE", help="JPEG, PNG or WebP files, or folders of them.")]

_T = TypeVar("_T")


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


def answered(
    paths: Sequence[Path], answers: Generator[_T | AttnserveError], failures: output.Failures, doing: str
) -> Iterator[tuple[Path, _T]]:
    """Yields each image with its answer; reports errors in their places. Several images have a progress bar.

    Args:
        paths: the images.
        answers: an answer or an error for each.
        failures: of the command.
        doing: label of the progress bar.

    Raises:
        AttnserveError: as ``failures`` does.
    """
    with contextlib.closing(answers), output.progress(doing, len(paths), is_wanted=not failures.is_single) as advance:
        for path, answer in zip(paths, answers, strict=True):
            advance()
            if isinstance(answer, AttnserveError):
                answer.add_note(str(path))
                failures.report(answer)
            else:
                yield path, answer


@contextlib.contextmanager
def reported(failures: output.Failures, path: Path) -> Iterator[None]:
    """Reports the error of one image."""
    try:
        yield
    except AttnserveError as error:
        error.add_note(str(path))
        failures.report(error)


def files_for(paths: Sequence[Path], wanted: Path | None, option: str, *, is_single: bool) -> list[Path] | None:
    """Returns the file to write for each image: ``wanted`` itself for one image, files in the folder ``wanted`` for several.

    A file in the folder is named after its image: ``street.jpg.png``. The folder is made.

    Raises:
        BadParameter: two images have the same name.
        ToolError: the folder cannot be made, or the file cannot be drawn into.
    """
    if wanted is None:
        return None
    if is_single:
        output.check_file(wanted, option)
        return [wanted]
    if len({path.name for path in paths}) < len(paths):
        raise typer.BadParameter("two images have the same name, and files are named after images", param_hint=option)
    try:
        wanted.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(f"with several images, {option} names a folder, and {wanted} cannot be one: {error.strerror}") from error
    return [wanted / f"{path.name}.png" for path in paths]
