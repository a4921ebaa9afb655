# SPDX-License-Identifier: Apache-2.0
"""``attnserve caption``: photos, or folders of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from attnserve_client.channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from attnserve_client.cli import output
from attnserve_client.cli.options import (
    Address,
    AsJson,
    BeamSize,
    CoveragePenalty,
    ImagesInFlight,
    LengthPenalty,
    MaxTokens,
    MinTokens,
    ModelId,
    NoRepeatNgram,
    NumHypotheses,
    Prefix,
    Priority,
    RepetitionPenalty,
    Sample,
    Seed,
    Temperature,
    Timeout,
    TopK,
    TopP,
)
from attnserve_client.client import Client
from attnserve_client.errors import AttnserveError, ToolError
from attnserve_client.options import CaptionKeywords
from attnserve_client.types import Caption, CaptionDelta

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Endings of the files that a folder is searched for."""
_MOST_DRAWN = 20


def caption(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="JPEG, PNG or WebP files, or folders of them.")],
    address: Address = DEFAULT_ADDRESS,
    model: ModelId = "",
    beam_size: BeamSize = None,
    num_hypotheses: NumHypotheses = None,
    length_penalty: LengthPenalty = None,
    coverage_penalty: CoveragePenalty = None,
    max_tokens: MaxTokens = None,
    min_tokens: MinTokens = None,
    no_repeat_ngram: NoRepeatNgram = None,
    repetition_penalty: RepetitionPenalty = None,
    sample: Sample = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    prefix: Prefix = None,
    priority: Priority = 0,
    attention: Annotated[
        Path | None, typer.Option("--attention", metavar="FILE.png", help="Draw where the model looked for each word.")
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print words as they come.")] = False,
    as_json: AsJson = False,
    max_in_flight: ImagesInFlight = 16,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Describe photos: the caption of one, or a line with name and caption for each of several.

    Of several, one that cannot be described is an error message in its place; the exit code is 1 then, at the end.
    """
    paths = find_images(images)
    if attention is not None and (len(paths) > _MOST_DRAWN or stream):
        raise typer.BadParameter(f"draws {_MOST_DRAWN} images at most, and no stream", param_hint="--attention")
    keywords: CaptionKeywords = {
        "beam_size": beam_size,
        "num_hypotheses": num_hypotheses,
        "length_penalty": length_penalty,
        "coverage_penalty": coverage_penalty,
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        "no_repeat_ngram_size": no_repeat_ngram,
        "repetition_penalty": repetition_penalty,
        "temperature": 1.0 if sample and temperature is None else temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "prefix": prefix,
        "return_attention": attention is not None,
        "priority": priority,
    }
    with Client(address, timeout=timeout) as client:
        if stream:
            for path in paths:
                _print_stream(client, path, model, keywords, as_json)
            return
        is_single, num_failed = len(paths) == 1 and images[0].is_file(), 0
        drawn: list[tuple[Caption, Path]] = []
        answers = client.caption_many(_contents(paths), model=model, max_in_flight=max_in_flight, **keywords)
        with contextlib.closing(answers), output.progress("describing", len(paths), is_wanted=not is_single) as advance:
            for path, answer in zip(paths, answers, strict=True):
                advance()
                if isinstance(answer, AttnserveError):
                    answer.add_note(str(path))
                    if is_single:
                        raise answer
                    num_failed += 1
                    output.report(answer)
                    continue
                _print_answer(answer, "" if is_single else f"{path}\t", num_hypotheses or 1, as_json, path)
                drawn.append((answer, path))
    if attention is not None and drawn:
        _draw(attention, drawn)
    if num_failed:
        raise ToolError(f"{num_failed} of {len(paths)} images could not be described")


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Returns the files that are named, and those of the folders that are, sorted, with the endings of images.

    Raises:
        ToolError: one is not there, or a folder has no images.
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


def _contents(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        yield read_image(path)


def read_image(path: Path) -> bytes:
    """Returns a file's bytes.

    Raises:
        ToolError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ToolError(f"cannot read {path}: {error.strerror or error}") from error


def _print_answer(answer: Caption, name: str, num_hypotheses: int, as_json: bool, path: Path) -> None:
    if as_json:
        output.print_json({"image": str(path), **output.json_of(answer)})
    elif num_hypotheses == 1:
        print(f"{name}{answer.text}", flush=True)
    else:
        for rank, hypothesis in enumerate(answer.hypotheses, 1):
            print(f"{name}{rank}\t{hypothesis.score:.4f}\t{hypothesis.text}", flush=True)


def _print_stream(client: Client, path: Path, model: str, keywords: CaptionKeywords, as_json: bool) -> None:
    for event in client.caption_stream(read_image(path), model=model, **keywords):
        if as_json:
            kind = "delta" if isinstance(event, CaptionDelta) else "result"
            output.print_json({"image": str(path), kind: output.json_of(event)})
        elif isinstance(event, CaptionDelta):
            print(event.text, end="", flush=True)
    if not as_json:
        print(flush=True)


def _draw(file: Path, answers: Sequence[tuple[Caption, Path]]) -> None:
    try:
        from attnserve_client.caption_plot import save_stories
    except ModuleNotFoundError as error:
        raise ToolError(f'drawing the attention needs {error.name}: pip install "attnserve[cli]"') from error
    try:
        save_stories(file, [(answer, read_image(path)) for answer, path in answers])
    except (OSError, ValueError) as error:
        raise ToolError(f"cannot draw the attention into {file}: {error}") from error
