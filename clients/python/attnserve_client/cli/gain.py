# SPDX-License-Identifier: Apache-2.0
"""``attnserve evaluate gain``: the difference of two models in BLEU, with an interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from attnserve_client import evaluation
from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import output, photos, sentences
from attnserve_client.cli.options import AsJson, ImagesInFlight, Timeout, decode_option
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.client import Client
from attnserve_client.errors import ToolError
from attnserve_client.types import Task

_SPLITS = {Task.TRANSLATION: "test_2016_flickr", Task.CAPTION: "dev"}
"""The default split of each task that is scored with BLEU."""


@takes_server
def evaluate_gain(
    model: Annotated[str, typer.Option("--model", metavar="ID", help="Model whose gain is measured.")],
    against: Annotated[str, typer.Option("--against", metavar="ID", help="Model that it is compared with, of the same task.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", envvar="ATTNSERVE_DATA", metavar="DIR", help="Folder of data sets, with multi30k/ or flickr8k/ in it."
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Split of the data set; default: that of evaluate.")] = "",
    beam_size: Annotated[int | None, decode_option("beam_size")] = 5,
    server: Server = DEFAULT_SERVER,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N sentences or photos.")] = None,
    as_json: AsJson = False,
    max_in_flight: ImagesInFlight = 16,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Measure how much better a model's translations or captions are than another's: one JSON object.

    bleu is the lower-case score of evaluate translation (bleu_lc) or of evaluate caption (bleu_4); gain is the difference,
    interval its 95 % interval: both models' answers are drawn again, sentence by sentence or photo by photo (paired
    bootstrap, Koehn 2004). An interval above 0 shows that the model is better on such data; it does not cover the
    chance of a training.
    """
    evaluation.require_sacrebleu()
    with server.client(timeout=timeout) as client:
        task, other = (client.get_model(each).model.task for each in (model, against))
        if task not in _SPLITS or other != task:
            raise ToolError(f"{model} and {against} must both translate, or both write captions")
        chosen = split or _SPLITS[task]
        read = _translations if task is Task.TRANSLATION else _captions
        ours, theirs = read(client, (model, against), data, chosen, limit, beam_size, max_in_flight)
        variants = [client.get_model(each).model.variant for each in (model, against)]
    result = {
        "evaluation": "gain",
        "model": model,
        "variant": variants[0],
        "against": against,
        "against_variant": variants[1],
        **dataclasses.asdict(evaluation.bleu_gain(ours, theirs)),
        "split": chosen,
        "limit": limit,
        "beam_size": beam_size,
        "answers": len(ours),
    }
    output.print_json(result, indent=None if as_json else 2)


def _translations(
    client: Client,
    models: Sequence[str],
    data: Path | None,
    split: str,
    limit: int | None,
    beam_size: int | None,
    max_in_flight: int,
) -> list[evaluation.BleuParts]:
    pairs = sentences.read_split(client, data, split, models[0], limit)
    references = [[each] for each in pairs.references]
    found = []
    for model in models:
        answers = sentences.translated(client, pairs.sources, model, max_in_flight, {"beam_size": beam_size})
        found.append(evaluation.translation_parts(sentences.texts_of(answers), references))
    return found


def _captions(
    client: Client,
    models: Sequence[str],
    data: Path | None,
    split: str,
    limit: int | None,
    beam_size: int | None,
    max_in_flight: int,
) -> list[evaluation.BleuParts]:
    wanted = photos.read_split(data, split, limit)
    references = [each.captions for each in wanted]
    found = []
    for model in models:
        answers = photos.described(client, wanted, model, max_in_flight, {"beam_size": beam_size})
        found.append(evaluation.caption_parts([each.text for each in answers], references))
    return found
