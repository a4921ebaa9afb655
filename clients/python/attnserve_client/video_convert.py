# SPDX-License-Identifier: Apache-2.0
"""Converts between the clients' values and the messages of models that classify a clip; see ``convert.py``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from attnserve.v1 import classification_pb2
from attnserve_client.errors import AttnserveError, InvalidRequest
from attnserve_client.fields import new_request, set_fields
from attnserve_client.image_files import FileSource, ImageFile, file_bytes, image_bytes, is_file, not_a_clip
from attnserve_client.options import ClassifyVideoKeywords
from attnserve_client.pass_convert import timings_from_proto, weights_array
from attnserve_client.pass_types import ClassProbability
from attnserve_client.video_types import PositionMap, SampledFrame, VideoClassification

Clip = FileSource | Sequence[ImageFile]
"""A video file; or the frames of a clip in order, image files."""


def classify_video_request(
    clip: Clip, model: str, version: str, keywords: ClassifyVideoKeywords
) -> classification_pb2.ClassifyVideoRequest:
    """Returns a request.

    Raises:
        InvalidRequest: a field has a value that cannot be sent.
        OSError: a file cannot be read.
    """
    fields: dict[str, Any] = dict(keywords)
    queries = fields.pop("queries", ())
    request = new_request(classification_pb2.ClassifyVideoRequest, model, version)
    if is_file(clip):
        request.video = file_bytes(clip, "video")
    elif isinstance(clip, Iterable):
        request.frames.extend(image_bytes(frame, f"frames[{index}]") for index, frame in enumerate(clip))
    else:
        raise not_a_clip(clip)
    try:
        request.queries.extend(classification_pb2.ClipPosition(frame=frame, x=x, y=y) for frame, x, y in queries)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"queries cannot be {queries!r}: {error}", field="queries") from error
    set_fields(request, fields)
    return request


def video_classification_from_proto(message: classification_pb2.ClassifyVideoResponse) -> VideoClassification:
    """Returns the classification in a response.

    Raises:
        AttnserveError: the response violates the protocol.
    """
    if not message.classes:
        raise AttnserveError("the server's answer has no class", code="INTERNAL")
    attention = _maps(message.attention)
    times = message.attention.times
    if attention and any(frame.time >= times for frame in message.frames):
        raise AttnserveError("a frame in the server's answer belongs to no cell of the attention", code="INTERNAL")
    return VideoClassification(
        classes=tuple(ClassProbability(each.index, each.name, each.probability) for each in message.classes),
        frames=tuple(SampledFrame(each.index, each.seconds, each.time, each.picture) for each in message.frames),
        clip_frames=message.clip_frames,
        attention=attention,
        model=message.model,
        version=message.version,
        timings=timings_from_proto(message.timings),
    )


def _maps(message: classification_pb2.ClipAttention) -> tuple[PositionMap, ...]:
    shape = message.times, message.rows, message.columns
    found = []
    for each in message.maps:
        if each.cell >= np.prod(shape):
            raise AttnserveError("the attention in the server's answer has a cell outside its cells", code="INTERNAL")
        rest, column = divmod(each.cell, shape[2])
        query = each.query.frame, each.query.x, each.query.y
        found.append(PositionMap(query, (*divmod(rest, shape[1]), column), weights_array(each.weights, shape)))
    return tuple(found)
