# SPDX-License-Identifier: Apache-2.0
"""Converts between the clients' values and the messages of image generation; see ``convert.py``."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnserve.v1 import generation_pb2
from attnserve_client.errors import AttnserveError, InvalidRequest
from attnserve_client.fields import new_request, set_field, set_fields
from attnserve_client.generation_types import Generation, GenerationAttention
from attnserve_client.options import GenerateKeywords
from attnserve_client.pass_convert import timings_from_proto, weights_array


def generate_request(class_name: str, model: str, version: str, keywords: GenerateKeywords) -> generation_pb2.GenerateImageRequest:
    """Returns a request.

    Raises:
        InvalidRequest: a field has a value that cannot be sent.
    """
    fields: dict[str, Any] = {name: value for name, value in keywords.items() if value is not None}
    is_grid, at = fields.pop("grid", False), fields.pop("attention_at", None)
    request = new_request(generation_pb2.GenerateImageRequest, model, version)
    set_field(request, "class_name", class_name)
    request.form = generation_pb2.GENERATION_FORM_GRID if is_grid else generation_pb2.GENERATION_FORM_IMAGES
    if at is not None:
        try:
            x, y = at
            request.attention_at.CopyFrom(generation_pb2.GeneratedPixel(x=x, y=y))
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"attention_at cannot be {at!r}: {error}", field="attention_at") from error
    set_fields(request, fields)
    return request


def generation_from_proto(message: generation_pb2.GenerateImageResponse) -> Generation:
    """Returns the images in a response.

    Raises:
        AttnserveError: the response violates the protocol.
    """
    expected = 1 if message.columns else message.count
    if not message.count or len(message.images) != expected:
        raise AttnserveError(f"the server's answer has {len(message.images)} files for {message.count} images", code="INTERNAL")
    return Generation(
        class_index=message.class_index,
        seed=message.seed,
        width=message.width,
        height=message.height,
        count=message.count,
        files=tuple(message.images),
        columns=message.columns,
        attention=_attention(message) if message.HasField("attention") else None,
        model=message.model,
        version=message.version,
        timings=timings_from_proto(message.timings),
    )


def _attention(message: generation_pb2.GenerateImageResponse) -> GenerationAttention:
    attention = message.attention
    shape = attention.rows, attention.columns
    if not all(shape) or attention.cell >= shape[0] * shape[1] or len(attention.maps) != message.count:
        raise AttnserveError("the attention in the server's answer is not one map for each image", code="INTERNAL")
    maps = np.stack([weights_array(each.weights, shape) for each in attention.maps])
    maps.setflags(write=False)
    return GenerationAttention(divmod(attention.cell, shape[1]), maps)
