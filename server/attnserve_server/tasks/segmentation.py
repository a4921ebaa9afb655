# SPDX-License-Identifier: Apache-2.0
"""The segmentation task: an image file to the model's input; its class map and attention to those of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.errors import InvalidRequest
from attnserve_server.passes import PassDone, PassOutcome, PassPayload
from attnserve_server.tasks.answers import ClassArea, ClassMapFormat, ClassRuns, PairwiseMap, Segmentation, SegmentAttention
from attnserve_server.tasks.class_map import ClassMap
from attnserve_server.tasks.fit import Fitted, InputSizes
from attnserve_server.tasks.images import read_picture
from attnserve_server.tasks.interface import AnswerStream, Limits, Model
from attnserve_server.tasks.passes import (
    PassPrepared,
    array_of,
    batch_size_of,
    check_attention,
    integers,
    manifest_problems,
    num_queries,
    outcome_of,
    outputs_of,
    pixels_of,
    unusable,
)

MAX_QUERIES = 16
"""Query pixels of a request at most."""
MAX_CLASSES = 256
"""Classes of a model: an index is one byte."""
MAX_RAW_PIXELS = 4_000_000
"""Pixels of an image whose map is sent raw: with all that else is in an answer, it fits into the 4 MiB that gRPC's clients read."""
MAX_RUNS = 1_000_000
"""Runs of an answer, for the same reason."""
_UNARY, _PAIRWISE = manifest_pb2.ATTENTION_ROLE_UNARY, manifest_pb2.ATTENTION_ROLE_PAIRWISE


@dataclass(frozen=True, slots=True)
class AskedSegmentation:
    """A client's request: an image file, the form of the class map (None if it is unknown), and the wanted attention."""

    image: bytes
    format: ClassMapFormat | int = ClassMapFormat.PNG
    """A plain ``int`` is an unknown value."""
    return_unary: bool = False
    queries: Sequence[tuple[int, int]] = ()
    """Pixels (x, y) of the upright image."""


def segmentation_problems(manifest: manifest_pb2.Manifest) -> list[str]:
    """Returns the problems of a manifest that only segmentation models can have."""
    roles = [each.role for each in manifest.single_pass.attention]
    problems = manifest_problems(manifest, ("classes", "confidence"), (_UNARY, _PAIRWISE))
    problems += [
        f"single_pass.attention: {roles.count(role)} outputs have the role {role}" for role in set(roles) if roles.count(role) > 1
    ]
    is_odd = len(manifest.single_pass.labels) > MAX_CLASSES
    return [*problems, f"single_pass.labels: more than {MAX_CLASSES}"] if is_odd else problems


class SegmentationTask:
    """What requests need of one model."""

    def __init__(self, bundle: Bundle) -> None:
        declared = bundle.manifest.single_pass
        self.sizes, self.cell = InputSizes.of(declared.picture), declared.picture.cell
        self.num_classes, self.num_queries = len(declared.labels), num_queries(bundle.variant, MAX_QUERIES)
        self.palette = b"".join(label.colour.to_bytes(3, "big") for label in declared.labels)


class SegmentationWork:
    """A :class:`~attnserve_server.tasks.interface.Task`: image to the class of each pixel."""

    def load(self, bundle: Bundle) -> SegmentationTask:
        """See :class:`Task`."""
        return SegmentationTask(bundle)

    def check(self, asked: AskedSegmentation, model: Model, limits: Limits) -> None:
        """See :class:`Task`: all checks that do not need the image's size."""
        del limits
        if not isinstance(asked.format, ClassMapFormat):
            raise InvalidRequest(f"format has the unknown value {asked.format}", field="format")
        if asked.return_unary:
            check_attention(model, _UNARY, field="return_unary")
        if asked.queries:
            check_attention(model, _PAIRWISE, field="queries")
        most = model.task.num_queries
        if len(asked.queries) > most:
            raise InvalidRequest(f"queries must be at most {most}; there are {len(asked.queries)}", field="queries")

    def effort(self, asked: AskedSegmentation) -> None:
        """See :class:`Task`: never inline, because decoding takes milliseconds."""
        return

    def prepare(self, asked: AskedSegmentation, checked: None, model: Model, limits: Limits) -> PassPrepared:
        """See :class:`Task`."""
        task: SegmentationTask = model.task
        picture = read_picture(asked.image, limits.image, task.sizes, lambda *size: _check_size(asked, *size))
        fitted, wants_attention = picture.fitted, asked.return_unary or bool(asked.queries)
        inputs = {"image": pixels_of(picture)}
        if task.sizes.pads:
            inputs["size"] = integers(fitted.inside[::-1])
        if wants_attention and task.num_queries:
            cells = [_cell(query, fitted, task.cell, fitted.size[0]) for query in asked.queries]
            inputs["query"] = integers([*cells, *[0] * (task.num_queries - len(cells))])
        rows, columns = _grid(fitted.size, task.cell)
        return PassPrepared(model, picture, asked, [PassPayload(inputs, wants_attention, rows * columns)])

    def render(self, prepared: PassPrepared, answers: Sequence[PassDone]) -> Segmentation:
        """See :class:`Task`.

        Raises:
            ExecutionFailed: an output is not what the manifest says.
        """
        outcome, asked, task = outcome_of(answers), prepared.asked, prepared.model.task
        width, height = prepared.picture.fitted.inside
        classes, confidence = (array_of(outcome, name, np.uint8, 2)[:height, :width] for name in ("classes", "confidence"))
        if not classes.shape == confidence.shape == (height, width):
            unusable("classes")
        class_map = ClassMap(classes, prepared.picture.fitted.original)
        areas = class_map.areas(confidence)
        if len(areas) > task.num_classes:
            unusable("classes")
        areas += [ClassArea(index, 0.0, 0.0) for index in range(len(areas), task.num_classes)]
        attention = _attention(prepared, outcome) if prepared.payloads[0].wants_attention else None
        form = _formed(class_map, asked.format, task.palette)
        return Segmentation(*class_map.size, asked.format, form, areas, attention, batch_size_of(answers))

    def stream(self, prepared: PassPrepared) -> AnswerStream:
        """See :class:`Task`: no method of its service streams."""
        raise NotImplementedError


def _check_size(asked: AskedSegmentation, width: int, height: int) -> None:
    """Checks what depends on the size of the upright image.

    Raises:
        InvalidRequest: a query is outside, or the map would be too large.
    """
    for index, query in enumerate(asked.queries):
        for name, value, most in zip("xy", query, (width, height), strict=True):
            if value >= most:
                field = f"queries[{index}].{name}"
                raise InvalidRequest(f"{field} must be below {most}: the image has {width} x {height}; it is {value}", field=field)
    if asked.format is ClassMapFormat.RAW and width * height > MAX_RAW_PIXELS:
        raise InvalidRequest(
            f"format must be PNG or run lengths for images of more than {MAX_RAW_PIXELS:,} pixels; it has {width} x {height}",
            field="format",
        )


def _formed(class_map: ClassMap, form: ClassMapFormat, palette: bytes) -> bytes | ClassRuns:
    """Returns the map in a form.

    Raises:
        InvalidRequest: there are too many runs.
    """
    if form is ClassMapFormat.PNG:
        return class_map.png(palette)
    if form is ClassMapFormat.RAW:
        return class_map.raw()
    runs = class_map.runs()
    if runs.classes.size > MAX_RUNS:
        raise InvalidRequest(
            f"format must be PNG for this image: it has {runs.classes.size:,} runs, at most {MAX_RUNS:,} are sent", field="format"
        )
    return runs


def _grid(size: tuple[int, int], cell: int) -> tuple[int, int]:
    """Returns rows and columns of the cells that cover a size (width, height)."""
    return -(-size[1] // cell), -(-size[0] // cell)


def _cell(query: tuple[int, int], fitted: Fitted, cell: int, width: int) -> int:
    """Returns the index of a pixel's cell, row-major in a grid that covers ``width``."""
    return fitted.row_of(query[1]) // cell * -(-width // cell) + fitted.column_of(query[0]) // cell


def _attention(prepared: PassPrepared, outcome: PassOutcome) -> SegmentAttention:
    """Crops the maps to the cells of the picture; those of the padding have the weight 0."""
    fitted, asked, task = prepared.picture.fitted, prepared.asked, prepared.model.task
    cell = task.cell
    grid, (rows, columns) = _grid(fitted.size, cell), _grid(fitted.inside, cell)

    def cropped(name: str, *first: int) -> npt.NDArray[np.float32]:
        weights = array_of(outcome, name, np.float32, len(first) + 1)
        if weights.shape != (*first, grid[0] * grid[1]):
            unusable(name)
        return weights.reshape(*first, *grid)[..., :rows, :columns]

    unary, pairwise = None, list[PairwiseMap]()
    if asked.return_unary:
        unary = cropped(outputs_of(prepared.model, _UNARY)[0].output)
    if asked.queries:
        maps = cropped(outputs_of(prepared.model, _PAIRWISE)[0].output, task.num_queries)
        cells = [_cell(query, fitted, cell, fitted.inside[0]) for query in asked.queries]
        pairwise = [PairwiseMap(*each) for each in zip(asked.queries, cells, maps, strict=False)]
    width, height = (cell * whole / part for whole, part in zip(fitted.original, fitted.inside, strict=True))
    return SegmentAttention(rows, columns, (width, height), unary, pairwise)
