# SPDX-License-Identifier: Apache-2.0
"""The list of tasks. A test checks the other lists (configuration, services, the client's tables) against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from attnserve.v1 import manifest_pb2
from attnserve_server.kinds import ITERATIVE, SINGLE_PASS, Kind
from attnserve_server.tasks.caption import CaptionWork
from attnserve_server.tasks.classification import ClassificationWork, classification_problems
from attnserve_server.tasks.clips.processes import Decoding
from attnserve_server.tasks.generation import GenerationWork, generation_problems
from attnserve_server.tasks.interface import Task
from attnserve_server.tasks.segmentation import SegmentationWork, segmentation_problems
from attnserve_server.tasks.translation import TranslationWork
from attnserve_server.tasks.video_classification import VideoWork, video_problems


@dataclass(frozen=True, slots=True)
class Preparation:
    """Threads that prepare requests which would block the event loop.

    Args:
        name: name of the threads; tasks with the same name share them.
        what: plural noun for the error message ("too many images at once").
        stop: ends what the threads wait for, when the server stops.
    """

    name: str
    what: str
    stop: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task.

    Args:
        number: the task's number in manifests.
        name: name in messages and in the setting of the default model (``default_models.NAME``).
        does: verb phrase for the message "the model X does not …".
        service: full name of the gRPC service.
        kind: kind of engine of its models.
        task: the task's work before and after the engine.
        needs: dotted paths of required fields of the manifest.
        preparation: threads for its preparation.
        reads_image: whether its models read images; the preparation time is then measured.
        renders_on_threads: whether its answers are made on threads, since they take milliseconds.
        further_problems: returns the problems of a manifest that only this task's models can have.
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
    renders_on_threads: bool = False
    further_problems: Callable[[manifest_pb2.Manifest], list[str]] = lambda manifest: []

    def problems(self, manifest: manifest_pb2.Manifest) -> list[str]:
        """Returns all problems of a manifest of this task, including those of its kind of engine."""
        problems = [f"{name} is missing" for name in self.needs if not _at(manifest, name)]
        return problems + self.further_problems(manifest) + self.kind.problems(manifest)


def _image_problems(manifest: manifest_pb2.Manifest) -> list[str]:
    """Returns the problem of an iterative model that has an image but no captions, or the other way round."""
    is_right = manifest.HasField("image") == (manifest.task == manifest_pb2.TASK_CAPTION)
    return [] if is_right else ["image: only captioning models have it, and all of them must"]


TRANSLATION = TaskSpec(
    number=manifest_pb2.TASK_TRANSLATION,
    name="translation",
    does="translate",
    service="attnserve.v1.TranslationService",
    kind=ITERATIVE,
    task=TranslationWork(),
    needs=("limits.max_target_tokens", "limits.max_beam_size", "limits.max_source_tokens"),
    preparation=Preparation("tokenizer", "long texts"),
    further_problems=_image_problems,
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
    further_problems=_image_problems,
)
SEGMENTATION = TaskSpec(
    number=manifest_pb2.TASK_SEGMENTATION,
    name="segmentation",
    does="segment",
    service="attnserve.v1.SegmentationService",
    kind=SINGLE_PASS,
    task=SegmentationWork(),
    needs=("single_pass.picture.sizes", "single_pass.picture.fit", "single_pass.picture.cell", "single_pass.labels"),
    preparation=Preparation("decoder", "images"),
    reads_image=True,
    renders_on_threads=True,
    further_problems=segmentation_problems,
)
CLASSIFICATION = TaskSpec(
    number=manifest_pb2.TASK_CLASSIFICATION,
    name="classification",
    does="classify",
    service="attnserve.v1.ClassificationService",
    kind=SINGLE_PASS,
    task=ClassificationWork(),
    needs=("single_pass.picture.sizes", "single_pass.picture.fit", "single_pass.labels"),
    preparation=Preparation("decoder", "images"),
    reads_image=True,
    further_problems=classification_problems,
)
_DECODING = Decoding()
VIDEO_CLASSIFICATION = TaskSpec(
    number=manifest_pb2.TASK_VIDEO_CLASSIFICATION,
    name="video_classification",
    does="classify video",
    service="attnserve.v1.ClassificationService",
    kind=SINGLE_PASS,
    task=VideoWork(_DECODING),
    needs=("single_pass.clip.frames", "single_pass.clip.size.width", "single_pass.clip.size.height", "single_pass.labels"),
    preparation=Preparation("clips", "clips", _DECODING.close),
    reads_image=True,
    renders_on_threads=True,
    further_problems=video_problems,
)
GENERATION = TaskSpec(
    number=manifest_pb2.TASK_GENERATION,
    name="generation",
    does="generate",
    service="attnserve.v1.GenerationService",
    kind=SINGLE_PASS,
    task=GenerationWork(),
    needs=("single_pass.latent.size", "single_pass.generated.width", "single_pass.generated.height", "single_pass.labels"),
    preparation=Preparation("decoder", "images"),
    renders_on_threads=True,
    further_problems=generation_problems,
)

TASKS = (TRANSLATION, CAPTION, SEGMENTATION, CLASSIFICATION, VIDEO_CLASSIFICATION, GENERATION)


class TaskTable:
    """Tasks by their number in manifests.

    Args:
        specs: the tasks that the server serves.
    """

    def __init__(self, specs: Iterable[TaskSpec] = TASKS) -> None:
        self._specs = {spec.number: spec for spec in specs}

    def all(self) -> list[TaskSpec]:
        """Returns all tasks."""
        return list(self._specs.values())

    def of(self, manifest: manifest_pb2.Manifest) -> TaskSpec:
        """Returns the task of a checked manifest."""
        return self._specs[manifest.task]

    def problems(self, manifest: manifest_pb2.Manifest) -> list[str]:
        """Returns all problems of a manifest except those of its files; a check for ``bundle/loader.py: load_bundle``."""
        spec = self._specs.get(manifest.task)
        return spec.problems(manifest) if spec is not None else [f"task {manifest.task} is not served"]


def _at(manifest: manifest_pb2.Manifest, name: str) -> object:
    value: object = manifest
    for part in name.split("."):
        value = getattr(value, part)
    return value
