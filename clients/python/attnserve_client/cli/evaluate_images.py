# SPDX-License-Identifier: Apache-2.0
"""``attnserve evaluate segmentation`` and ``attnserve evaluate classification``."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import labelled, output
from attnserve_client.cli.clips import LabelledClip
from attnserve_client.cli.options import AsJson, ImagesInFlight, ModelId, Timeout
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.client import Client
from attnserve_client.confusion import Confusion
from attnserve_client.errors import AttnserveError, ToolError

_L = TypeVar("_L", labelled.LabelledPixels, labelled.LabelledImage, LabelledClip)
_T = TypeVar("_T")


@takes_server
def evaluate_segmentation(
    data: labelled.CamVidFolder = None,
    split: labelled.SplitName = "val",
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="Folder of images, instead of --data; with --labels.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="DIR", help="PNG files named like the images of --images: pixels are class indices."),
    ] = None,
    ignored: Annotated[
        list[int] | None, typer.Option("--ignore", metavar="N", help="Label of --labels that is not scored. Repeatable.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    model: ModelId = "",
    limit: labelled.Limit = None,
    as_json: AsJson = False,
    max_in_flight: ImagesInFlight = 16,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Segment a data set and score the class maps: one JSON object, indented unless --json asks for one line.

    miou is the mean over the classes of intersection over union, each over the pixels of all images; accuracy is the share
    of pixels; all in percent. CamVid's label Void is left out.
    """
    if (images is None) != (labels is None):
        raise typer.BadParameter("--images and --labels must be given together")
    if images is None or labels is None:
        found, name, left_out = labelled.read_camvid(data, split, limit), split, {labelled.CAMVID_VOID}
    else:
        found, name, left_out = labelled.read_pairs(images, labels, limit), None, set(ignored or ())
    with server.client(timeout=timeout) as client:
        answers = client.segment_many((each.image for each in found), model=model, max_in_flight=max_in_flight)
        start, matrix, classes, answered_by = time.monotonic(), Confusion(0), list[str](), model
        for each, answer in answered_items(found, answers, "segmenting"):
            if not classes:
                classes, answered_by = [area.name for area in answer.classes], answer.model
                matrix = Confusion(len(classes))
            try:
                matrix.add(each.labels(), answer.class_map, left_out)
            except ValueError as error:
                raise ToolError(f"the labels of {each.name} do not fit: {error}; --ignore N leaves a label out") from error
        scores = {
            "miou": rounded(matrix.mean_iou()),
            "accuracy": rounded(matrix.accuracy()),
            "class_iou": dict(zip(classes, map(rounded, matrix.ious()), strict=True)),
        }
        result = result_of(client, "segmentation", scores, start, answered_by)
    output.print_json(result | {"images": len(found), "split": name, "limit": limit}, indent=None if as_json else 2)


@takes_server
def evaluate_classification(
    data: labelled.Cifar10Folder = None,
    split: labelled.SplitName = "val",
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Instead of --data: a folder with a folder of images for each class."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    model: ModelId = "",
    limit: labelled.Limit = None,
    as_json: AsJson = False,
    max_in_flight: ImagesInFlight = 16,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Classify a data set and score the most probable classes: one JSON object, indented unless --json asks for one line.

    accuracy is the share of images in percent, class_accuracy that of each class; confusion has a row for each true class
    and a column for each predicted one.
    """
    if images is None:
        found, name = labelled.read_cifar10(data, split, limit), split
    else:
        found, name = labelled.read_classes(images, limit), None
    with server.client(timeout=timeout) as client:
        answers = client.classify_many((each.image for each in found), model=model, max_in_flight=max_in_flight, top_k=1)
        start, matrix, classes, answered_by = time.monotonic(), Confusion(0), list[str](), model
        for each, answer in answered_items(found, answers, "classifying"):
            if not classes:
                classes, answered_by = classes_of(client, answer.model, {each.label for each in found}), answer.model
                matrix = Confusion(len(classes))
            matrix.add(np.array([classes.index(each.label)]), np.array([answer.best.index]))
        scores = {
            "accuracy": rounded(matrix.accuracy()),
            "class_accuracy": dict(zip(classes, map(rounded, matrix.recalls()), strict=True)),
            "confusion": matrix.counts.tolist(),
        }
        result = result_of(client, "classification", scores, start, answered_by)
    output.print_json(result | {"images": len(found), "split": name, "limit": limit}, indent=None if as_json else 2)


def classes_of(client: Client, model: str, wanted: set[str]) -> list[str]:
    """Returns the names of a model's classes.

    Raises:
        ToolError: a wanted class is not one of them.
    """
    classes = [each.name for each in client.get_model(model).manifest.single_pass.labels]
    if unknown := sorted(wanted - set(classes)):
        raise ToolError(f"{model} has no class {', '.join(unknown)}: it has {', '.join(classes) or 'none'}")
    return classes


def answered_items(items: list[_L], answers: Generator[_T | AttnserveError], doing: str) -> Iterator[tuple[_L, _T]]:
    """Yields items with their answers, with a progress bar.

    Raises:
        AttnserveError: the first error in order; scores of a part of the images would mislead.
    """
    with contextlib.closing(answers), output.progress(doing, len(items)) as advance:
        for item, answer in zip(items, answers, strict=True):
            if isinstance(answer, AttnserveError):
                answer.add_note(item.name)
                raise answer
            yield item, answer
            advance()


def rounded(score: float) -> float | None:
    """Returns a score for JSON: two decimals, None for NaN."""
    return None if math.isnan(score) else round(float(score), 2)


def result_of(client: Client, evaluation: str, scores: dict[str, Any], start: float, model: str) -> dict[str, Any]:
    """Returns the result of a command: its scores, how long it took, model and variant."""
    seconds = round(time.monotonic() - start, 3)
    variant = client.get_model(model).model.variant
    return {"evaluation": evaluation, **scores, "seconds": seconds, "model": model, "variant": variant}
