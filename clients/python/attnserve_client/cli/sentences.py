# SPDX-License-Identifier: Apache-2.0
"""The sentences of an evaluation: read from files or from a split of Multi30k, and translated with a progress bar."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from attnserve_client.cli import output
from attnserve_client.client import Client
from attnserve_client.errors import AttnserveError, ToolError
from attnserve_client.evaluation import read_lines
from attnserve_client.lines import translate_lines
from attnserve_client.options import RequestKeywords
from attnserve_client.types import Translation

DataFolder = Annotated[
    Path | None, typer.Option("--data", envvar="ATTNSERVE_DATA", metavar="DIR", help="Folder of data sets, with multi30k/ in it.")
]
SplitName = Annotated[str, typer.Option("--split", metavar="NAME", help="Split of DIR/multi30k.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N sentences.")]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Sentences with one reference each."""

    sources: list[str]
    references: list[str]


def read_pairs(source: Path, reference: Path, limit: int | None) -> Pairs:
    """Reads two parallel text files.

    Raises:
        ToolError: a file cannot be read, has no lines, or the numbers of lines differ.
    """
    sources, references = (read_lines(path, limit) for path in (source, reference))
    if len(sources) != len(references) or not sources:
        raise ToolError(f"{source} has {len(sources)} lines, {reference} has {len(references)}: the numbers must be equal, above 0")
    return Pairs(sources, references)


def read_split(client: Client, data: Path | None, split: str, model: str, limit: int | None) -> Pairs:
    """Reads a split of Multi30k in the languages of a model's manifest; of the server's default model if ``model`` is empty.

    Raises:
        ToolError: the data set or the split is missing, or its files are not parallel.
        AttnserveError: the server does not answer, or has no such model.
    """
    if data is None:
        raise ToolError("name the folder of data sets with --data or ATTNSERVE_DATA")
    folder = data / "multi30k"
    if not folder.is_dir():
        raise ToolError(f"no folder {folder}: --data (or ATTNSERVE_DATA) must name the folder that holds multi30k/")
    vocabulary = client.get_model(model).manifest.vocabulary
    source, reference = (
        folder / f"{split}.{language.split('-')[0]}.gz" for language in (vocabulary.source_language, vocabulary.target_language)
    )
    for path in (source, reference):
        if not path.is_file():
            raise ToolError(f"no file {path}: is {split} a split of multi30k?")
    return read_pairs(source, reference, limit)


def translated(
    client: Client, sources: list[str], model: str, max_in_flight: int, keywords: RequestKeywords
) -> list[Translation | None]:
    """Translates lines with a progress bar.

    Args:
        client: connection to the server.
        sources: the lines.
        model: id; empty for the server's default.
        max_in_flight: maximum number of requests that run at once.
        keywords: options of every request.

    Returns:
        One answer for each line, in order; None for a blank line, which is not sent.

    Raises:
        AttnserveError: the first error in order, with the line's number as its note; the other requests are cancelled,
            since scores of a part of the lines would mislead.
    """
    lines = translate_lines(client, sources, model=model, max_in_flight=max_in_flight, **keywords)
    answers: list[Translation | None] = []
    with contextlib.closing(lines), output.progress(f"translating {model}".strip(), len(sources)) as advance:
        for answer in lines:
            if isinstance(answer, AttnserveError):
                raise answer
            answers.append(answer)
            advance()
    return answers


def texts_of(answers: list[Translation | None]) -> list[str]:
    """Returns the text of each answer's best hypothesis; an empty text for None."""
    return [answer.text if answer is not None else "" for answer in answers]
