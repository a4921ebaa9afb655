# SPDX-License-Identifier: Apache-2.0
"""``attnserve evaluate lengths`` and ``attnserve evaluate alignment``: compare models, as figures and as an image."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from attnserve_client import evaluation, word_alignment
from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import output, sentences
from attnserve_client.cli.options import AsJson, MaxInFlight, Timeout, decode_option
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.client import Client
from attnserve_client.errors import InvalidRequest, ToolError
from attnserve_client.options import AttentionDetail
from attnserve_client.types import Task, Translation

METRIC = "bleu_lc"
PAGE = (
    "A brown dog carries a tennis ball across the wet lawn.",
    "Two girls in yellow raincoats jump over a puddle.",
    "An old woman is selling oranges at a market stall.",
    "A man with a beard plays the guitar on a bench in the park.",
    "Several people are sitting on the steps of a museum in the sun.",
)
"""Default texts of the page of alignments."""

_DETAILS: tuple[AttentionDetail, AttentionDetail] = ("all", "mean")
"""``return_attention`` of the model that is measured, and of the reference model."""

Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Also draw the result into a file.")]


@takes_server
def evaluate_lengths(
    data: sentences.DataFolder = None,
    split: sentences.SplitName = "test_2016_flickr",
    models: Annotated[
        list[str] | None, typer.Option("--model", metavar="ID", help="Repeatable; default: all translation models.")
    ] = None,
    beam_size: Annotated[int | None, decode_option("beam_size")] = 5,
    num_bins: Annotated[int, typer.Option("--bins", min=1, metavar="N", help="Number of groups of lengths, of similar size.")] = 7,
    plot: Plot = None,
    server: Server = DEFAULT_SERVER,
    limit: sentences.Limit = None,
    as_json: AsJson = False,
    max_in_flight: MaxInFlight = 64,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """BLEU by source length, for several models: shows the limit of a fixed-size source vector (one JSON object).

    bleu_lc is sacreBLEU's case:lc|tok:13a over the sentences of each group of lengths; a length is a number of words.
    """
    evaluation.require_sacrebleu()
    if plot is not None:
        _plots(plot)  # fails early if the file cannot be drawn
    with server.client(timeout=timeout) as client:
        ids = list(dict.fromkeys(models or [each.id for each in client.list_models() if each.task is Task.TRANSLATION]))
        _check_languages(client, ids)
        pairs = sentences.read_split(client, data, split, ids[0], limit)
        groups = evaluation.length_bins(pairs.sources, num_bins)
        scores: list[dict[str, Any]] = []
        for model in ids:
            answers = sentences.translated(client, pairs.sources, model, max_in_flight, {"beam_size": beam_size})
            texts = sentences.texts_of(answers)
            score = _scorer(texts, pairs.references)
            by_length = [score(group.members) for group in groups]
            variant = client.get_model(model).model.variant
            scores.append({"model": model, "variant": variant, METRIC: score(range(len(texts))), "by_length": by_length})
    result = {
        "evaluation": "lengths",
        "split": split,
        "limit": limit,
        "beam_size": beam_size,
        "bins": num_bins,
        "sentences": len(pairs.sources),
        "words": [group.label for group in groups],
        "counts": [len(group.members) for group in groups],
        "models": scores,
    }
    output.print_json(result, indent=None if as_json else 2)
    if plot is not None:
        _draw_lengths(plot, result)


def _check_languages(client: Client, models: list[str]) -> None:
    """Raises a ``ToolError`` if models translate between different languages, or if there are none."""
    vocabularies = [client.get_model(model).manifest.vocabulary for model in models]
    languages = {f"{each.source_language} to {each.target_language}" for each in vocabularies}
    if len(languages) != 1:
        raise ToolError(f"only models of the same languages can be compared, but found: {', '.join(sorted(languages)) or 'none'}")


def _scorer(texts: list[str], references: list[str]) -> Callable[[Any], float]:
    def score(members: Any) -> float:
        chosen = list(members)
        return round(evaluation.score([texts[i] for i in chosen], [references[i] for i in chosen]).bleu_lc, 2)

    return score


def _draw_lengths(path: Path, result: dict[str, Any]) -> None:
    plots = _plots(path)
    curves = [plots.LengthCurve(f"{each['model']} ({each[METRIC]:.1f})", each["by_length"]) for each in result["models"]]
    metric = f"BLEU, lower case ({result['split']}, beam {result['beam_size']})"
    with output.drawing(path):
        plots.save_length_curves(path, result["words"], result["counts"], curves, metric)


@takes_server
def evaluate_alignment(
    data: sentences.DataFolder = None,
    split: sentences.SplitName = "val",
    model: Annotated[str, typer.Option("--model", metavar="ID", help="Model to measure, by layer and head.")] = "transformer-en-de",
    against: Annotated[str, typer.Option("--against", metavar="ID", help="Model that gives the reference alignment.")] = (
        "rnnsearch-en-de"
    ),
    plot: Plot = None,
    texts: Annotated[
        list[str] | None, typer.Option("--text", metavar="TEXT", help="Text to draw; repeatable; default: five built-in texts.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    limit: sentences.Limit = None,
    as_json: AsJson = False,
    max_in_flight: MaxInFlight = 16,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Measure which layer or head of a model aligns words like another model: one JSON object, and a page of both alignments.

    Both models decode the reference (as a prefix), so that they align the same words. A source word's attention is the
    sum over its pieces, a target word's attention the mean over its pieces; the figure is how often both models give
    the most attention to the same source word.
    """
    if plot is not None:
        _plots(plot)  # fails early if the file cannot be drawn
    with server.client(timeout=timeout) as client:
        _check_languages(client, [model, against])
        pairs = sentences.read_split(client, data, split, model, limit)
        counts, num_words, num_sentences = _agreements(client, pairs, (model, against), max_in_flight)
        shares = counts / num_words
        best = _Place.of_best(shares)
        variants = {name: client.get_model(name).model.variant for name in (model, against)}
        rows = [] if plot is None else _page(client, plot, texts or PAGE, (model, against), best)
    result = {
        "evaluation": "alignment",
        "split": split,
        "limit": limit,
        "model": model,
        "variant": variants[model],
        "against": against,
        "against_variant": variants[against],
        "sentences": num_sentences,
        "words": num_words,
        "agreement": shares[:-1, :-1].round(4).tolist(),
        "agreement_of_layer_means": shares[:-1, -1].round(4).tolist(),
        "agreement_of_mean": round(float(shares[-1, -1]), 4),
        "best": {"layers": best.layers, "heads": best.heads, "agreement": round(float(shares[best.index]), 4)},
    }
    output.print_json(result, indent=None if as_json else 2)
    if plot is not None:
        with output.drawing(plot):
            _plots(plot).save_page(plot, rows)


@dataclass(frozen=True, slots=True)
class _Place:
    """An index of ``word_alignment.with_means``: a head, or a layer's mean. An empty list means all."""

    index: tuple[int, int]
    layers: list[int]
    heads: list[int]

    @classmethod
    def of_best(cls, shares: NDArray[np.float64]) -> _Place:
        """Returns the place of the highest share (layers + 1, heads + 1): a head or a layer's mean, but no mean over layers."""
        layer, head = (int(index) for index in np.unravel_index(shares[:-1].argmax(), shares[:-1].shape))
        return cls((layer, head), *([at] if at < size - 1 else [] for at, size in zip((layer, head), shares.shape, strict=True)))

    def __str__(self) -> str:
        return " ".join(f"{name} {each[0]}" for name, each in (("layer", self.layers), ("head", self.heads)) if each)


def _agreements(
    client: Client, pairs: sentences.Pairs, models: tuple[str, str], max_in_flight: int
) -> tuple[NDArray[np.int64], int, int]:
    """Returns the counts of each layer and head (layers + 1, heads + 1), and the numbers of words and sentences.

    The last column is each layer's mean, the last row the means over layers; references that a model cannot decode are left out.
    """
    counts, num_words, num_sentences = np.zeros((), np.int64), 0, 0

    def agreement(source: str, reference: str) -> tuple[NDArray[np.int64], int] | None:
        if not source or not reference:
            return None
        try:
            one, other = (
                client.translate(source, model=model, prefix=reference, return_attention=detail)
                for model, detail in zip(models, _DETAILS, strict=True)
            )
        except InvalidRequest as error:
            if error.field in ("options.prefix", "text"):
                return None
            raise
        words, common = word_alignment.words_of(source), word_alignment.common_words(reference, one.text, other.text)
        if not words or not common:
            return None
        weights = _attention(one)
        if weights.ndim != 4:
            raise ToolError(f"{one.model} has a single alignment: there are no layers and heads to choose from")
        ours = word_alignment.most_attended(one, word_alignment.with_means(weights), words, common)
        theirs = word_alignment.most_attended(other, _attention(other), words, common)
        return (ours == theirs).sum(-1), len(common)

    with ThreadPoolExecutor(max_in_flight) as threads, output.progress("aligning", len(pairs.sources)) as advance:
        for found in threads.map(agreement, pairs.sources, pairs.references):
            advance()
            if found is not None:
                counts, num_words, num_sentences = counts + found[0], num_words + found[1], num_sentences + 1
    if not num_words:
        raise ToolError(f"the models {' and '.join(models)} have no word in common to align")
    return counts, num_words, num_sentences


def _page(client: Client, path: Path, texts: Any, models: tuple[str, str], place: _Place) -> list[Any]:
    plots, rows = _plots(path), []
    for text in texts:
        row = []
        for name, detail in reversed(list(zip(models, _DETAILS, strict=True))):
            answer = client.translate(text, model=name, beam_size=5, return_attention=detail)
            weights, title = _attention(answer), name
            if detail == "all":
                weights, title = word_alignment.with_means(weights)[place.index], f"{name}, {place}"
            source, target = ([piece.label for piece in pieces] for pieces in (answer.source_pieces, answer.best.pieces))
            row.append(plots.AttentionMap(title, weights, source, target))
        rows.append(row)
    return rows


def _attention(answer: Translation) -> NDArray[np.float32]:
    if answer.best.attention is None:
        raise ToolError(f"{answer.model} has no attention to compare")
    return answer.best.attention


def _plots(path: Path) -> Any:
    """Returns the module that draws; raises early if it cannot draw into this file."""
    with output.drawing(path):
        from attnserve_client import plots
    if not path.parent.is_dir() or path.suffix.lstrip(".") not in plots.FORMATS:
        raise ToolError(f"cannot draw into {path}: its folder must exist, and its suffix be one of {', '.join(plots.FORMATS)}")
    return plots
