# SPDX-License-Identifier: Apache-2.0
"""``attnserve evaluate TASK``: quality figures through a running server."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from attnserve_client import evaluation
from attnserve_client.channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from attnserve_client.cli import output
from attnserve_client.cli.options import (
    Address,
    AsJson,
    BeamSize,
    CoveragePenalty,
    LengthPenalty,
    MaxInFlight,
    MaxTokens,
    MinTokens,
    ModelId,
    NoRepeatNgram,
    RepetitionPenalty,
    Sample,
    Seed,
    SplitSentences,
    Temperature,
    Timeout,
    TopK,
    TopP,
)
from attnserve_client.client import Client
from attnserve_client.errors import ToolError
from attnserve_client.lines import translate_lines
from attnserve_client.options import RequestKeywords
from attnserve_client.types import Task

app = typer.Typer(help="Score a model's answers through a running server.", no_args_is_help=True)

_FILES = "UTF-8 text, one sentence a line, .gz or plain."


@app.callback()
def _evaluate() -> None:
    """Keeps the task's name a part of the command, even while there is but one."""


@app.command("translation")
def evaluate_translation(
    source: Annotated[Path | None, typer.Option("--source", metavar="FILE", help=f"What to translate: {_FILES}")] = None,
    reference: Annotated[Path | None, typer.Option("--reference", metavar="FILE", help=f"How it should be: {_FILES}")] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", envvar="ATTNSERVE_DATA", metavar="DIR", help="Folder of data sets, instead of the two files."),
    ] = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Which part of DIR/multi30k.")] = "test_2016_flickr",
    address: Address = DEFAULT_ADDRESS,
    model: ModelId = "",
    beam_size: BeamSize = None,
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
    split_sentences: SplitSentences = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N sentences.")] = None,
    as_json: AsJson = False,
    max_in_flight: MaxInFlight = 64,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Translate a file and score it: one JSON object, indented unless --json asks for one line.

    bleu is sacreBLEU's case:mixed|tok:13a, bleu_lc its case:lc|tok:13a; tokens counts the pieces of the best answers, end symbols
    included; variant is the one that was served, split the part of --data. Decode options are a part of it, where they were given;
    one --seed is that of every sentence.
    """
    if (source is None) != (reference is None):
        raise typer.BadParameter("--source and --reference go together")
    if source is None and data is None:
        raise typer.BadParameter("give --source and --reference, or the folder of data sets with --data or ATTNSERVE_DATA")
    evaluation.require_sacrebleu()
    keywords: RequestKeywords = {
        "beam_size": beam_size,
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
        "split_sentences": split_sentences,
    }
    with Client(address, timeout=timeout) as client:
        name = None
        if source is None or reference is None:
            (source, reference), name = _files_of_split(client, data or Path(), split, model), split
        sources, references = (evaluation.read_lines(path, limit) for path in (source, reference))
        if len(sources) != len(references) or not sources:
            raise ToolError(f"{source} has {len(sources)} lines, {reference} has {len(references)}: they must be alike, and some")
        result = _evaluated(client, sources, references, model, max_in_flight, keywords)
        variant = next((served.variant for served in client.list_models() if served.id == result["model"]), None)
        result |= {"variant": variant, "split": name}
    output.print_json(result, indent=None if as_json else 2)


def _evaluated(
    client: Client, sources: list[str], references: list[str], model: str, max_in_flight: int, keywords: RequestKeywords
) -> dict[str, Any]:
    """Translates and scores; returns the command's result."""
    texts: list[str] = []
    num_tokens, answered_by = 0, model
    start = time.monotonic()
    answers = translate_lines(client, sources, model=model, max_in_flight=max_in_flight, **keywords)
    with contextlib.closing(answers), output.progress("translating", len(sources)) as advance:
        for answer in answers:
            texts.append(answer.text if answer is not None else "")
            if answer is not None:
                num_tokens, answered_by = num_tokens + len(answer.best.pieces), answer.model
            advance()
    seconds = time.monotonic() - start
    counts = {"seconds": round(seconds, 3), "tokens": num_tokens, "sentences": len(texts), "model": answered_by}
    always = ("beam_size", "length_penalty")
    options = {name: value for name, value in keywords.items() if name in always or not (value is None or value is False)}
    return {**dataclasses.asdict(evaluation.score(texts, references)), **counts, **options}


def _files_of_split(client: Client, data: Path, split: str, model: str) -> tuple[Path, Path]:
    """Returns the source and reference of a split of Multi30k, in the languages that the model's manifest names."""
    folder = data / "multi30k"
    if not folder.is_dir():
        raise ToolError(f"no folder {folder}: --data (or ATTNSERVE_DATA) must name the folder that holds multi30k/")
    vocabulary = client.get_model(model or _only_translation_model(client)).manifest.vocabulary
    source, reference = (
        folder / f"{split}.{language.split('-')[0]}.gz" for language in (vocabulary.source_language, vocabulary.target_language)
    )
    for path in (source, reference):
        if not path.is_file():
            raise ToolError(f"no file {path}: is {split} a split of multi30k?")
    return source, reference


def _only_translation_model(client: Client) -> str:
    ids = sorted({model.id for model in client.list_models() if model.task is Task.TRANSLATION})
    if len(ids) != 1:
        raise ToolError(f"name the model with --model; the server's translation models: {', '.join(ids) or 'none'}")
    return ids[0]
