# SPDX-License-Identifier: Apache-2.0
"""``attnserve evaluate generation``: generated images, judged by a classifier of the same server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import output
from attnserve_client.cli.options import AsJson, ImagesInFlight, Timeout
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.client import Client
from attnserve_client.errors import AttnserveError, ToolError
from attnserve_client.types import ModelDetails, Task

_CALL = 50
"""Images of a call."""
_SEEDS = 1 << 32
"""Calls of one --seed have other seeds than those of another."""


@takes_server
def evaluate_generation(
    server: Server = DEFAULT_SERVER,
    model: Annotated[str, typer.Option("--model", metavar="ID", help="Generation model; default: the server's only one.")] = "",
    judge: Annotated[str, typer.Option("--judge", metavar="ID", help="Classification model; default: the server's only one.")] = "",
    samples: Annotated[
        int, typer.Option("--samples", min=1, metavar="N", help="Number of images, of all classes together.")
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, max=_SEEDS - 1, metavar="N", help="Selects the latent vectors.")] = 0,
    as_json: AsJson = False,
    max_in_flight: ImagesInFlight = 16,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Generate images of each class and classify them: one JSON object, indented unless --json asks for one line.

    as_asked is the share of images in percent whose most probable class is the requested one, class_as_asked that of each
    class. A classifier's answers have no features, so there is no Fréchet distance: see the model card.
    """
    with server.client(timeout=timeout) as client:
        generator, judging = _details(client, model, Task.GENERATION), _details(client, judge, Task.CLASSIFICATION)
        classes, known = (_classes(each) for each in (generator, judging))
        if missing := sorted(set(classes) - set(known)):
            raise ToolError(f"{judging.model.id} has no class {', '.join(missing)}: it cannot judge {generator.model.id}")
        if samples < len(classes):
            raise typer.BadParameter(f"must be at least {len(classes)}, the number of classes", param_hint="--samples")
        count, start, right = samples // len(classes), time.monotonic(), dict[str, int]()
        with output.progress("generating and judging", count * len(classes)) as advance:
            for index, name in enumerate(classes):
                first = seed * _SEEDS + index * (_SEEDS // 1024)
                images = list(_images(client, generator.model.id, name, count, first))
                right[name] = 0
                for found in _judged(client, judging.model.id, images, max_in_flight):
                    right[name] += found == name
                    advance()
    result = {
        "evaluation": "generation",
        "as_asked": round(100 * sum(right.values()) / (count * len(classes)), 2),
        "class_as_asked": {name: round(100 * number / count, 2) for name, number in right.items()},
        "seconds": round(time.monotonic() - start, 3),
        "model": generator.model.id,
        "variant": generator.model.variant,
        "judge": judging.model.id,
        "judge_variant": judging.model.variant,
        "samples": count * len(classes),
        "seed": seed,
    }
    output.print_json(result, indent=None if as_json else 2)


def _details(client: Client, model: str, task: Task) -> ModelDetails:
    """Returns a model; for an empty id the only one of a task.

    Raises:
        ToolError: the server has no model of the task, or several; or the model is of another one.
    """
    if not model:
        found = sorted({each.id for each in client.list_models() if each.task is task})
        if len(found) != 1:
            raise ToolError(f"the server has {len(found) or 'no'} models of the task {task.value}; name one: {', '.join(found)}")
        (model,) = found
    details = client.get_model(model)
    if details.model.task is not task:
        raise ToolError(f"{model} is not a model of the task {task.value}")
    return details


def _classes(details: ModelDetails) -> list[str]:
    return [each.name for each in details.manifest.single_pass.labels]


def _images(client: Client, model: str, class_name: str, count: int, seed: int) -> Iterator[bytes]:
    """Yields PNG files of one class."""
    for call, begin in enumerate(range(0, count, _CALL)):
        size = min(_CALL, count - begin)
        yield from client.generate_image(class_name, model=model, count=size, seed=seed + call).files


def _judged(client: Client, judge: str, images: Sequence[bytes], max_in_flight: int) -> Iterator[str]:
    """Yields the most probable class of each image.

    Raises:
        AttnserveError: the first error; a share of a part of the images would mislead.
    """
    answers = client.classify_many(images, model=judge, top_k=1, max_in_flight=max_in_flight)
    with contextlib.closing(answers):
        for answer in answers:
            if isinstance(answer, AttnserveError):
                raise answer
            yield answer.best.name
