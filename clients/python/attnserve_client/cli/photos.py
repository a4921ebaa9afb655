# SPDX-License-Identifier: Apache-2.0
"""The photos of an evaluation: those of a split of Flickr8k, with their captions, described with a progress bar."""

from __future__ import annotations

import contextlib
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from attnserve_client.cli import output
from attnserve_client.client import Client
from attnserve_client.errors import AttnserveError, ToolError
from attnserve_client.options import CaptionKeywords
from attnserve_client.types import Caption

DataFolder = Annotated[
    Path | None, typer.Option("--data", envvar="ATTNSERVE_DATA", metavar="DIR", help="Folder of data sets, with flickr8k/ in it.")
]
SplitName = Annotated[str, typer.Option("--split", metavar="NAME", help="Split of DIR/flickr8k.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N photos.")]


@dataclass(frozen=True, slots=True)
class Photo:
    """An image file, its name and its reference captions."""

    name: str
    data: bytes
    captions: list[str]


def read_split(data: Path | None, split: str, limit: int | None) -> list[Photo]:
    """Reads a split of Flickr8k, in the order of its archives.

    Raises:
        ToolError: the data set is missing or invalid.
    """
    if data is None:
        raise ToolError("name the folder of data sets with --data or ATTNSERVE_DATA")
    folder = data / "flickr8k"
    if not folder.is_dir():
        raise ToolError(f"no folder {folder}: --data (or ATTNSERVE_DATA) must name the folder that holds flickr8k/")
    archives = sorted(folder.glob(f"{split}.tar")) or sorted(folder.glob(f"{split}-*.tar"))
    if not archives:
        raise ToolError(f"no file {folder / split}.tar: is {split} a split of flickr8k?")
    photos: list[Photo] = []
    try:
        captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))[split]
        for archive in archives:
            with tarfile.open(archive) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    if file is not None:
                        photos.append(Photo(member.name, file.read(), captions[member.name]))
                    if len(photos) == limit:
                        return photos
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        raise ToolError(f"cannot read the {split} split in {folder}: {error}") from error
    return photos


def described(client: Client, photos: list[Photo], model: str, max_in_flight: int, keywords: CaptionKeywords) -> list[Caption]:
    """Describes photos with a progress bar; one caption for each, in order.

    Raises:
        AttnserveError: the first error in order, with the photo's name as its note; the other requests are cancelled.
    """
    answers = client.caption_many((each.data for each in photos), model=model, max_in_flight=max_in_flight, **keywords)
    captions: list[Caption] = []
    with contextlib.closing(answers), output.progress(f"describing {model}".strip(), len(photos)) as advance:
        for photo, answer in zip(photos, answers, strict=True):
            if isinstance(answer, AttnserveError):
                answer.add_note(photo.name)
                raise answer
            captions.append(answer)
            advance()
    return captions
