# SPDX-License-Identifier: Apache-2.0
"""The generation task: a class, a count and a seed to one payload for each image; the images to PNG files.

Each image is a request of its own to the engine. So a batch takes images of one call and of others alike, and a call with many
images has no more of a worker's time than as many calls with one. If one image fails, all of the call fail.
"""

from __future__ import annotations

import io
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.errors import InvalidRequest
from attnserve_server.passes import PassDone, PassPayload, PassTensor
from attnserve_server.tasks.answers import GeneratedAttention, Generation, GenerationForm
from attnserve_server.tasks.interface import AnswerStream, Limits, Model
from attnserve_server.tasks.latent import latent_vector
from attnserve_server.tasks.passes import array_of, check_attention, integers, manifest_problems, outputs_of, unusable

MAX_COUNT = 64
"""Images of a request at most."""
_SHOWN_CLASSES = 20
"""Class names in an error message at most."""
_PAIRWISE = manifest_pb2.ATTENTION_ROLE_PAIRWISE
_COMPRESSION = 6
"""zlib's level of the PNG files: 32 x 32 pixels take 0.1 ms."""
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class AskedGeneration:
    """A client's request; a count, seed or attention of None is not set."""

    class_name: str
    count: int | None = None
    seed: int | None = None
    form: GenerationForm | int = GenerationForm.IMAGES
    """A plain ``int`` is an unknown value."""
    attention_at: tuple[int, int] | None = None
    """A pixel (x, y) of the images."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The options of a valid request: index of the class, number of images, the seed that is used, and the attended cell."""

    label: int
    count: int
    seed: int
    form: GenerationForm
    cell: int | None


@dataclass(frozen=True, slots=True)
class GenerationPrepared:
    """A prepared request: one payload for each image."""

    model: Model
    checked: Checked
    payloads: Sequence[PassPayload]


def generation_problems(manifest: manifest_pb2.Manifest) -> list[str]:
    """Returns the problems of a manifest that only generation models can have."""
    declared = manifest.single_pass
    problems = manifest_problems(manifest, ("pixels",), (_PAIRWISE,))
    if len(declared.attention) > 1:
        problems.append("single_pass.attention: more than one output")
    made, cell = declared.generated, declared.generated.cell
    if declared.attention and (not cell or made.width % cell or made.height % cell):
        problems.append(f"single_pass.generated.cell: {cell} does not divide {made.width} x {made.height} pixels")
    for variant in manifest.variants:
        for each in variant.passes:
            axes = {tensor.name: list(tensor.axes) for tensor in (*each.graph.inputs, *each.graph.outputs)}
            wanted = {"latent": ["batch", str(declared.latent.size)], "label": ["batch"]}
            if each.gives_attention:
                wanted["query"] = ["batch", "1"]
            if "pixels" in axes:
                wanted["pixels"] = ["batch", str(made.height), str(made.width), "3"]
            problems += [
                f"variant {variant.name}, {each.graph.file}: {name} does not have the axes ({', '.join(shape)})"
                for name, shape in wanted.items()
                if axes.get(name) != shape
            ]
    return problems


class GenerationTask:
    """What requests need of one model."""

    def __init__(self, bundle: Bundle) -> None:
        declared = bundle.manifest.single_pass
        self.labels = {label.name: index for index, label in enumerate(declared.labels)}
        self.latent_size, made = declared.latent.size, declared.generated
        self.width, self.height, self.cell = made.width, made.height, made.cell

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the attention's cells; the model must have attention."""
        return self.height // self.cell, self.width // self.cell


class GenerationWork:
    """A :class:`~attnserve_server.tasks.interface.Task`: class to images."""

    def load(self, bundle: Bundle) -> GenerationTask:
        """See :class:`Task`."""
        return GenerationTask(bundle)

    def check(self, asked: AskedGeneration, model: Model, limits: Limits) -> Checked:
        """See :class:`Task`: all checks."""
        del limits
        task: GenerationTask = model.task
        count = 1 if asked.count is None else asked.count
        if asked.class_name not in task.labels:
            raise InvalidRequest(f"class_name must be one of {_listed(task.labels)}", field="class_name")
        if not 1 <= count <= MAX_COUNT:
            raise InvalidRequest(f"count must be from 1 to {MAX_COUNT}; it is {count}", field="count")
        if not isinstance(asked.form, GenerationForm):
            raise InvalidRequest(f"form has the unknown value {asked.form}", field="form")
        seed = secrets.randbits(64) if asked.seed is None else asked.seed
        return Checked(task.labels[asked.class_name], count, seed, asked.form, _cell(asked.attention_at, model))

    def effort(self, asked: AskedGeneration) -> int | None:
        """See :class:`Task`: one latent vector takes 20 µs, about as long as 512 characters."""
        return 1 if asked.count in (None, 1) else None

    def prepare(self, asked: AskedGeneration, checked: Checked, model: Model, limits: Limits) -> GenerationPrepared:
        """See :class:`Task`."""
        del asked, limits
        payloads = [_payload(model.task, checked, index) for index in range(checked.count)]
        return GenerationPrepared(model, checked, payloads)

    def render(self, prepared: GenerationPrepared, answers: Sequence[PassDone]) -> Generation:
        """See :class:`Task`.

        Raises:
            ExecutionFailed: an output is not what the manifest says.
        """
        task, checked = prepared.model.task, prepared.checked
        images = [_pixels(task, each) for each in answers]
        columns = math.ceil(math.sqrt(checked.count)) if checked.form is GenerationForm.GRID else 0
        files = [png(in_grid(images, columns))] if columns else [png(each) for each in images]
        attention = _attention(prepared, answers) if checked.cell is not None else None
        largest = max(each.outcome.batch_size for each in answers)
        return Generation(files, (task.width, task.height), checked.count, columns, checked.label, checked.seed, attention, largest)

    def stream(self, prepared: GenerationPrepared) -> AnswerStream:
        """See :class:`Task`: no method of its service streams."""
        raise NotImplementedError


def _listed(labels: Sequence[str] | dict[str, int]) -> str:
    names = list(labels)
    more = f" and {len(names) - _SHOWN_CLASSES} more" if len(names) > _SHOWN_CLASSES else ""
    return ", ".join(names[:_SHOWN_CLASSES]) + more


def _cell(pixel: tuple[int, int] | None, model: Model) -> int | None:
    """Returns the cell of a pixel, row-major.

    Raises:
        InvalidRequest: it is outside, or the model gives no attention.
    """
    if pixel is None:
        return None
    check_attention(model, _PAIRWISE, field="attention_at")
    task: GenerationTask = model.task
    for name, value, most in zip("xy", pixel, (task.width, task.height), strict=True):
        if value >= most:
            field = f"attention_at.{name}"
            raise InvalidRequest(
                f"{field} must be below {most}: the images have {task.width} x {task.height}; it is {value}", field=field
            )
    return pixel[1] // task.cell * task.grid[1] + pixel[0] // task.cell


def _payload(task: GenerationTask, checked: Checked, index: int) -> PassPayload:
    inputs = {
        "latent": _tensor(latent_vector(checked.seed, index, task.latent_size)),
        "label": _tensor(np.array(checked.label, np.int64)),
    }
    if checked.cell is not None:
        inputs["query"] = integers([checked.cell])
    return PassPayload(inputs, checked.cell is not None)


def _tensor(values: npt.NDArray[Any]) -> PassTensor:
    return PassTensor(values.shape, values.tobytes())


def _pixels(task: GenerationTask, answer: PassDone) -> Pixels:
    """Returns an image: (height, width, 3)."""
    found = array_of(answer.outcome, "pixels", np.uint8, 3)
    return found if found.shape == (task.height, task.width, 3) else unusable("pixels")


def _attention(prepared: GenerationPrepared, answers: Sequence[PassDone]) -> GeneratedAttention:
    name, (rows, columns) = outputs_of(prepared.model, _PAIRWISE)[0].output, prepared.model.task.grid
    maps = [array_of(each.outcome, name, np.float32, 2) for each in answers]
    if any(each.shape != (1, rows * columns) for each in maps):
        unusable(name)
    assert prepared.checked.cell is not None
    return GeneratedAttention(rows, columns, prepared.checked.cell, [each[0] for each in maps])


def in_grid(images: Sequence[Pixels], columns: int) -> Pixels:
    """Returns images (height, width, 3) of equal size as one, row by row; places without an image are white."""
    height, width, _ = images[0].shape
    rows = -(-len(images) // columns)
    grid = np.full((rows, columns, height, width, 3), 255, np.uint8)
    grid.reshape(-1, height, width, 3)[: len(images)] = images
    return grid.swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def png(pixels: Pixels) -> bytes:
    """Returns a PNG file of an image (height, width, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=_COMPRESSION)
    return file.getvalue()
