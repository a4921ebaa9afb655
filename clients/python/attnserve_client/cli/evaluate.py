# SPDX-License-Identifier: Apache-2.0
"""``attnserve evaluate TASK``: quality figures through a running server."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from attnserve_client import evaluation
from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import compare, evaluate_generation, evaluate_images, evaluate_video, gain, output, photos, sentences
from attnserve_client.cli.options import SAMPLING, AsJson, ImagesInFlight, MaxInFlight, ModelId, Timeout, takes_keywords
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.client import Client
from attnserve_client.options import CaptionKeywords, RequestKeywords

app = typer.Typer(help="Score a model's answers through a running server.", no_args_is_help=True)
app.command("lengths")(compare.evaluate_lengths)
app.command("alignment")(compare.evaluate_alignment)
app.command("gain")(gain.evaluate_gain)
app.command("segmentation")(evaluate_images.evaluate_segmentation)
app.command("classification")(evaluate_images.evaluate_classification)
app.command("video")(evaluate_video.evaluate_video)
app.command("video-skew")(evaluate_video.evaluate_video_skew)
app.command("generation")(evaluate_generation.evaluate_generation)

_FILES = "UTF-8 text, one sentence a line, .gz or plain."


@app.command("translation")
@takes_server
@takes_keywords(but=("num_hypotheses", "prefix", "priority"))
def evaluate_translation(
    source: Annotated[Path | None, typer.Option("--source", metavar="FILE", help=f"Source sentences: {_FILES}")] = None,
    reference: Annotated[Path | None, typer.Option("--reference", metavar="FILE", help=f"Reference translations: {_FILES}")] = None,
    data: sentences.DataFolder = None,
    split: sentences.SplitName = "test_2016_flickr",
    server: Server = DEFAULT_SERVER,
    model: ModelId = "",
    *,
    keywords: RequestKeywords,
    limit: sentences.Limit = None,
    as_json: AsJson = False,
    max_in_flight: MaxInFlight = 64,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Translate a file and score it: one JSON object, indented unless --json asks for one line.

    bleu is sacreBLEU's case:mixed|tok:13a, bleu_lc its case:lc|tok:13a; tokens is the number of pieces of the best
    answers, end symbols included; variant is the served variant, split the part of --data. Decode options that were
    given are included; one --seed applies to every sentence.
    """
    if (source is None) != (reference is None):
        raise typer.BadParameter("--source and --reference must be given together")
    if source is None and data is None:
        raise typer.BadParameter("give --source and --reference, or the folder of data sets with --data or ATTNSERVE_DATA")
    evaluation.require_sacrebleu()
    with server.client(timeout=timeout) as client:
        if source is None or reference is None:
            pairs, name = sentences.read_split(client, data, split, model, limit), split
        else:
            pairs, name = sentences.read_pairs(source, reference, limit), None
        result = _evaluated(client, pairs, model, max_in_flight, keywords)
        result |= {"variant": client.get_model(result["model"]).model.variant, "split": name, "limit": limit}
        result = {"evaluation": "translation", **result}
    output.print_json(result, indent=None if as_json else 2)


def _asked(keywords: RequestKeywords | CaptionKeywords) -> dict[str, Any]:
    """Returns the options that were given, and those that every evaluation reports."""
    always = ("beam_size", "length_penalty")
    return {name: value for name, value in keywords.items() if name in always or not (value is None or value is False)}


def _evaluated(client: Client, pairs: sentences.Pairs, model: str, max_in_flight: int, keywords: RequestKeywords) -> dict[str, Any]:
    """Translates and scores; returns the command's result."""
    start = time.monotonic()
    answers = sentences.translated(client, pairs.sources, model, max_in_flight, keywords)
    seconds = time.monotonic() - start
    given = [answer for answer in answers if answer is not None]
    num_tokens, answered_by = sum(len(answer.best.pieces) for answer in given), given[-1].model if given else model
    counts = {"seconds": round(seconds, 3), "tokens": num_tokens, "sentences": len(answers), "model": answered_by}
    return {**dataclasses.asdict(evaluation.score(sentences.texts_of(answers), pairs.references)), **counts, **_asked(keywords)}


@app.command("caption")
@takes_server
@takes_keywords(but=("num_hypotheses", "coverage_penalty", *SAMPLING, "prefix", "priority"))
def evaluate_caption(
    data: photos.DataFolder = None,
    split: photos.SplitName = "dev",
    server: Server = DEFAULT_SERVER,
    model: ModelId = "",
    *,
    keywords: CaptionKeywords,
    limit: photos.Limit = None,
    as_json: AsJson = False,
    max_in_flight: ImagesInFlight = 16,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Describe the photos of a data set and score the captions: one JSON object, indented unless --json asks for one line.

    bleu_4 and bleu_1 are corpus scores, in lower case and without punctuation, against all captions of each photo;
    tokens is the number of pieces of the best answers, end symbols included.
    """
    evaluation.require_sacrebleu()
    found = photos.read_split(data, split, limit)
    with server.client(timeout=timeout) as client:
        start = time.monotonic()
        captions = photos.described(client, found, model, max_in_flight, keywords)
        seconds = time.monotonic() - start
        variant = client.get_model(captions[0].model).model.variant
    scores = evaluation.score_captions([each.text for each in captions], [each.captions for each in found])
    result = {
        "evaluation": "caption",
        **dataclasses.asdict(scores),
        "seconds": round(seconds, 3),
        "tokens": sum(len(each.best.pieces) for each in captions),
        "photos": len(captions),
        "model": captions[0].model,
        **_asked(keywords),
        "variant": variant,
        "split": split,
        "limit": limit,
    }
    output.print_json(result, indent=None if as_json else 2)
