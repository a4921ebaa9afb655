# SPDX-License-Identifier: Apache-2.0
"""The video classification task: a clip to the model's input; its probabilities to the most probable classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.errors import InvalidRequest
from attnserve_server.passes import PassDone, PassOutcome, PassPayload, PassTensor
from attnserve_server.tasks.answers import ClipAttention, PositionMap, SampledFrame, VideoClassification
from attnserve_server.tasks.classification import most_probable, wanted_classes
from attnserve_server.tasks.clips.clip import Clip, ClipShape, check_clip, read_frames, read_video
from attnserve_server.tasks.clips.processes import Decoding, check_decoder
from attnserve_server.tasks.interface import AnswerStream, Limits, Model
from attnserve_server.tasks.passes import array_of, check_attention, integers, manifest_problems, num_queries, outcome_of, unusable

MAX_QUERIES = 16
"""Positions of a request at most."""
_PAIRWISE = manifest_pb2.ATTENTION_ROLE_PAIRWISE
Position = tuple[int, float, float]
"""Index among the sampled frames, and the shares of width and height."""


@dataclass(frozen=True, slots=True)
class AskedVideo:
    """A client's request: a file or frames, the number of classes (0 for the default), positions, and the wish for pictures."""

    video: bytes = b""
    frames: Sequence[bytes] = ()
    top_k: int = 0
    queries: Sequence[Position] = ()
    return_pictures: bool = False


@dataclass(frozen=True, slots=True)
class VideoPrepared:
    """A prepared request: the model, the sampled frames, the request, the number of classes, and its only payload."""

    model: Model
    clip: Clip
    asked: AskedVideo
    top_k: int
    payloads: Sequence[PassPayload]


def video_problems(manifest: manifest_pb2.Manifest) -> list[str]:
    """Returns the problems of a manifest that only video classification models can have."""
    return manifest_problems(manifest, ("probabilities",), (_PAIRWISE,))


class VideoTask:
    """What requests need of one model."""

    def __init__(self, bundle: Bundle) -> None:
        declared = bundle.manifest.single_pass
        self.shape, self.num_classes = ClipShape.of(declared.clip), len(declared.labels)
        self.num_queries = num_queries(bundle.variant, MAX_QUERIES)


class VideoWork:
    """A :class:`~attnserve_server.tasks.interface.Task`: clip to its most probable classes.

    Args:
        decoding: decodes files.
    """

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding

    def load(self, bundle: Bundle) -> VideoTask:
        """See :class:`Task`."""
        return VideoTask(bundle)

    def check(self, asked: AskedVideo, model: Model, limits: Limits) -> int:
        """See :class:`Task`: all checks that do not decode the clip; returns the number of classes.

        Raises:
            ExtraMissing: a file is sent, and PyAV is not installed.
        """
        task: VideoTask = model.task
        check_clip(asked.video, asked.frames, limits.clip)
        if asked.video:
            check_decoder()
        if asked.queries:
            check_attention(model, _PAIRWISE, field="queries")
        if len(asked.queries) > task.num_queries:
            raise InvalidRequest(f"queries must be at most {task.num_queries}; there are {len(asked.queries)}", field="queries")
        for index, query in enumerate(asked.queries):
            _check_position(f"queries[{index}]", query, task.shape.frames)
        return wanted_classes(asked.top_k, model)

    def effort(self, asked: AskedVideo) -> None:
        """See :class:`Task`: never inline, because decoding takes milliseconds."""
        return

    def prepare(self, asked: AskedVideo, checked: int, model: Model, limits: Limits) -> VideoPrepared:
        """See :class:`Task`."""
        task: VideoTask = model.task
        shape, wants_attention = task.shape, bool(asked.queries)
        if asked.video:
            clip = read_video(asked.video, limits.clip, shape, self.decoding.decode)
        else:
            clip = read_frames(asked.frames, limits.clip, shape)
        width, height = shape.size
        inputs = {"clip": PassTensor((shape.frames, height, width, 3), b"".join(clip.pixels))}
        if wants_attention:
            cells = [shape.cell_of(*query) for query in asked.queries]
            inputs["query"] = integers([*cells, *[0] * (task.num_queries - len(cells))])
        return VideoPrepared(model, clip, asked, checked, [PassPayload(inputs, wants_attention, shape.num_cells)])

    def render(self, prepared: VideoPrepared, answers: Sequence[PassDone]) -> VideoClassification:
        """See :class:`Task`.

        Raises:
            ExecutionFailed: an output is not what the manifest says.
        """
        outcome, asked, clip = outcome_of(answers), prepared.asked, prepared.clip
        shape: ClipShape = prepared.model.task.shape
        pictures = clip.pictures(shape.size) if asked.return_pictures else [b""] * shape.frames
        frames = [
            SampledFrame(index, seconds, shape.time_of(at), picture)
            for at, (index, seconds, picture) in enumerate(zip(clip.indices, clip.seconds, pictures, strict=True))
        ]
        classes = most_probable(outcome, prepared.model.task.num_classes, prepared.top_k)
        attention = _attention(prepared, outcome) if asked.queries else None
        return VideoClassification(classes, frames, clip.count, attention, outcome.batch_size)

    def stream(self, prepared: VideoPrepared) -> AnswerStream:
        """See :class:`Task`: no method of its service streams."""
        raise NotImplementedError


def _check_position(field: str, position: Position, frames: int) -> None:
    frame, *shares = position
    if frame >= frames:
        raise InvalidRequest(
            f"{field}.frame must be below {frames}, the number of sampled frames; it is {frame}", field=f"{field}.frame"
        )
    for name, share in zip("xy", shares, strict=True):
        if not (math.isfinite(share) and 0 <= share <= 1):
            raise InvalidRequest(f"{field}.{name} must be from 0 to 1; it is {share}", field=f"{field}.{name}")


def _attention(prepared: VideoPrepared, outcome: PassOutcome) -> ClipAttention:
    task: VideoTask = prepared.model.task
    (output,) = [each.output for each in prepared.model.manifest.single_pass.attention if each.role == _PAIRWISE]
    weights = array_of(outcome, output, np.float32, 2)
    if weights.shape != (task.num_queries, task.shape.num_cells):
        unusable(output)
    queries = prepared.asked.queries
    maps = [
        PositionMap(query, task.shape.cell_of(*query), row.reshape(task.shape.cells))
        for query, row in zip(queries, weights, strict=False)
    ]
    return ClipAttention(task.shape.cells, maps)
