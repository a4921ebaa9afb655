# SPDX-License-Identifier: Apache-2.0
"""The one list of tasks. What else names tasks (configuration, services, the client's tables) is checked against it by a test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attnserve.v1 import manifest_pb2
from attnserve_server.kinds import ITERATIVE, Kind
from attnserve_server.tasks.caption import CaptionWork
from attnserve_server.tasks.interface import Task
from attnserve_server.tasks.translation import TranslationWork


@dataclass(frozen=True, slots=True)
class Preparation:
    """Where requests are prepared that would hold up the event loop.

    Args:
        name: of the threads; tasks of one name share them.
        what: plural noun for the message when there are too many.
    """

    name: str
    what: str


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task.

    Args:
        number: in manifests.
        name: of the default-model setting (``default_models.NAME``), and in messages.
        does: what its models do, for "the model X does not …".
        service: full name of the gRPC service.
        kind: of its models' engines.
        task: what it does around the engine.
        needs: fields of the manifest that must be there, dotted.
        preparation: its threads.
        reads_image: whether the manifest says how an image becomes the model's input; the time of preparation is measured then.
    """

    number: int
    name: str
    does: str
    service: str
    kind: Kind
    task: Task
    needs: tuple[str, ...]
    preparation: Preparation
    reads_image: bool = False

    def problems(self, manifest: manifest_pb2.Manifest) -> list[str]:
        """What a manifest of this task lacks, and what the kind of its engine finds wrong with it."""
        problems = [f"{name} is missing" for name in self.needs if not _at(manifest, name)]
        if manifest.HasField("image") != self.reads_image:
            problems.append("image: a captioning model has it, and no other")
        return problems + self.kind.problems(manifest)


TRANSLATION = TaskSpec(
    number=manifest_pb2.TASK_TRANSLATION,
    name="translation",
    does="translate",
    service="attnserve.v1.TranslationService",
    kind=ITERATIVE,
    task=TranslationWork(),
    needs=("limits.max_target_tokens", "limits.max_beam_size", "limits.max_source_tokens"),
    preparation=Preparation("tokenizer", "long texts"),
)
CAPTION = TaskSpec(
    number=manifest_pb2.TASK_CAPTION,
    name="caption",
    does="describe images",
    service="attnserve.v1.CaptionService",
    kind=ITERATIVE,
    task=CaptionWork(),
    needs=(
        *("limits.max_target_tokens", "limits.max_beam_size"),
        *("image.height", "image.width", "image.grid_height", "image.grid_width"),
    ),
    preparation=Preparation("decoder", "images"),
    reads_image=True,
)

TASKS = (TRANSLATION, CAPTION)


class TaskTable:
    """Tasks by their number in manifests.

    Args:
        specs: the tasks that a server has.
    """

    def __init__(self, specs: Iterable[TaskSpec] = TASKS) -> None:
        self._specs = {spec.number: spec for spec in specs}

    def all(self) -> list[TaskSpec]:
        """Every task."""
        return list(self._specs.values())

    def of(self, manifest: manifest_pb2.Manifest) -> TaskSpec:
        """A checked manifest's task."""
        return self._specs[manifest.task]

    def problems(self, manifest: manifest_pb2.Manifest) -> list[str]:
        """What is wrong with a manifest but for its files; a check of :func:`~attnserve_server.bundle.loader.load_bundle`."""
        spec = self._specs.get(manifest.task)
        return spec.problems(manifest) if spec is not None else [f"task {manifest.task} is not served"]


def _at(manifest: manifest_pb2.Manifest, name: str) -> object:
    value: object = manifest
    for part in name.split("."):
        value = getattr(value, part)
    return value
