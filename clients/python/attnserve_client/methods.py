# SPDX-License-Identifier: Apache-2.0
"""The remote methods that the clients call, with types.

The generated stubs have no types; the values here do, and serve the sync and the aio channel alike. A test compares them with
the descriptors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from attnserve.v1 import caption_pb2, classification_pb2, generation_pb2, model_pb2, segmentation_pb2, translation_pb2

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[RequestT, ResponseT]):
    """A remote method: ``/package.Service/Name`` with the types of its messages."""

    path: str
    request_type: type[RequestT]
    response_type: type[ResponseT]


TRANSLATE = Method(
    "/attnserve.v1.TranslationService/Translate",
    translation_pb2.TranslateRequest,
    translation_pb2.TranslateResponse,
)
TRANSLATE_STREAM = Method(
    "/attnserve.v1.TranslationService/TranslateStream",
    translation_pb2.TranslateStreamRequest,
    translation_pb2.TranslateStreamResponse,
)
CAPTION = Method(
    "/attnserve.v1.CaptionService/Caption",
    caption_pb2.CaptionRequest,
    caption_pb2.CaptionResponse,
)
CAPTION_STREAM = Method(
    "/attnserve.v1.CaptionService/CaptionStream",
    caption_pb2.CaptionStreamRequest,
    caption_pb2.CaptionStreamResponse,
)
SEGMENT = Method(
    "/attnserve.v1.SegmentationService/Segment",
    segmentation_pb2.SegmentRequest,
    segmentation_pb2.SegmentResponse,
)
CLASSIFY_IMAGE = Method(
    "/attnserve.v1.ClassificationService/ClassifyImage",
    classification_pb2.ClassifyImageRequest,
    classification_pb2.ClassifyImageResponse,
)
CLASSIFY_VIDEO = Method(
    "/attnserve.v1.ClassificationService/ClassifyVideo",
    classification_pb2.ClassifyVideoRequest,
    classification_pb2.ClassifyVideoResponse,
)
GENERATE_IMAGE = Method(
    "/attnserve.v1.GenerationService/GenerateImage",
    generation_pb2.GenerateImageRequest,
    generation_pb2.GenerateImageResponse,
)
LIST_MODELS = Method(
    "/attnserve.v1.ModelService/ListModels",
    model_pb2.ListModelsRequest,
    model_pb2.ListModelsResponse,
)
GET_MODEL = Method(
    "/attnserve.v1.ModelService/GetModel",
    model_pb2.GetModelRequest,
    model_pb2.GetModelResponse,
)

# The health protocol's stubs are in a separate package. Its messages, {string service = 1} and {ServingStatus status = 1}, have the
# same wire format as two well-known wrappers, so the client needs neither that package nor a copy of its messages.
HEALTH_CHECK = Method("/grpc.health.v1.Health/Check", StringValue, Int32Value)
HEALTH_SERVING = 1
