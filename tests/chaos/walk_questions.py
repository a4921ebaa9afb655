# SPDX-License-Identifier: Apache-2.0
"""What the random walk asks: questions for every method of every task in the server's registry, and their answers when asked alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from attnserve.v1.classification_pb2 import ClipPosition
from attnserve.v1.decoding_pb2 import AttentionDetail, DecodeOptions, SamplingOptions
from attnserve.v1.generation_pb2 import GeneratedPixel, GenerationForm
from attnserve.v1.segmentation_pb2 import ClassMapFormat, Pixel
from attnserve_client.demo.steps import CLIP
from attnserve_server.tasks.registry import TASKS, TaskSpec
from attnserve_server.transport.rpc.server import SERVICERS
from tests.e2e.serving import SENTENCES
from tests.photos import PHOTOS

_DECODING: Sequence[Mapping[str, Any]] = (
    {},
    {"beam_size": 4, "num_hypotheses": 4},
    {"return_attention": AttentionDetail.ATTENTION_DETAIL_ALL, "beam_size": 2},
    {"sampling": SamplingOptions(seed=7, temperature=0.8), "num_hypotheses": 2},
)
_SEGMENTING: Sequence[Mapping[str, Any]] = (
    {},
    {"format": ClassMapFormat.CLASS_MAP_FORMAT_RUN_LENGTHS, "return_unary": True},
    {"format": ClassMapFormat.CLASS_MAP_FORMAT_RAW},
    {"queries": [Pixel(x=100, y=50), Pixel(x=7, y=300)]},
)
_CLASSIFYING: Sequence[Mapping[str, Any]] = ({}, {"return_attention": True}, {"top_k": 2})
_GENERATING: Sequence[Mapping[str, Any]] = (
    {"count": 3},
    {"count": 9, "form": GenerationForm.GENERATION_FORM_GRID},
    {"count": 2, "attention_at": GeneratedPixel(x=9, y=5)},
)
CONTENTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "translation": [
        {"text": text, "options": DecodeOptions(**options)}
        for text, options in zip(SENTENCES[:20], _DECODING * 5, strict=True)
    ],
    "segmentation": [
        {"image": photo.read_bytes(), **options} for photo, options in zip(PHOTOS, _SEGMENTING, strict=False)
    ],
    "classification": [
        {"image": photo.read_bytes(), **options} for photo, options in zip(PHOTOS, _CLASSIFYING, strict=False)
    ],
    "video_classification": [
        {"video": CLIP.read_bytes(), "queries": [ClipPosition(frame=3, x=0.5, y=0.2)]},
        {"frames": [photo.read_bytes() for photo in PHOTOS[:2]], "return_pictures": True},
    ],
    "generation": [
        {"class_name": name, "seed": seed, **options} for name, seed, options in zip(("ship", "airplane", "ship"), (1, 2, 3), _GENERATING, strict=True)
    ],
    "caption": [
        {"image": photo.read_bytes(), "options": DecodeOptions(**options)} for photo, options in zip(PHOTOS, _DECODING, strict=False)
    ],
}  # fmt: skip
"""Fields of the requests, by task: the same for each method of its service."""
METHODS = {"classification": "ClassifyImage", "video_classification": "ClassifyVideo"}
"""The method of each task that has one of a service for itself."""
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Question:
    """One request of one method."""

    path: str
    """Of the method: "/package.Service/Method"."""
    request: Message
    response: type[Message]
    is_stream: bool

    def ask(self, channel: grpc.aio.Channel, timeout: float) -> Any:
        """The call, under way."""
        method = channel.unary_stream if self.is_stream else channel.unary_unary
        return method(self.path, type(self.request).SerializeToString, self.response.FromString)(self.request, timeout=timeout)


@dataclass
class Known:
    """A question with its answer, and the seconds that it took alone."""

    question: Question
    answer: bytes
    seconds: float


def questions_of(specs: Iterable[TaskSpec], contents: Mapping[str, Sequence[Mapping[str, Any]]] = CONTENTS) -> list[Question]:
    """Every content with every method of its task.

    Raises:
        KeyError: a task has no contents.
    """
    found, registered = [], {descriptor.full_name for descriptor, _ in SERVICERS}
    for spec in specs:
        assert spec.service in registered
        for method in descriptor_pool.Default().FindServiceByName(spec.service).methods:
            if METHODS.get(spec.name, method.name) != method.name:
                continue
            request, response = (message_factory.GetMessageClass(each) for each in (method.input_type, method.output_type))
            path = f"/{spec.service}/{method.name}"
            found += [Question(path, request(**each), response, method.server_streaming) for each in contents[spec.name]]
    return found


def content(answer: Any) -> bytes:
    """What must be the same whenever it is asked: all of a response but its times."""
    copy = type(answer)()
    copy.CopyFrom(answer)
    copy.ClearField("timings")
    found: bytes = copy.SerializeToString(deterministic=True)
    return found


def whole(messages: Sequence[Any]) -> bytes:
    """The content of a stream: its result, which must say what the messages before it said.

    Raises:
        AssertionError: it does not, or there is none.
    """
    assert messages and messages[-1].WhichOneof("event") == "result", "a stream that ended well has a result"
    result, deltas = messages[-1].result, [message.delta for message in messages[:-1]]
    assert "".join(delta.text for delta in deltas) == result.hypotheses[0].text, "the pieces of a stream are its result"
    return content(result)


async def answer_of(question: Question, channel: grpc.aio.Channel, timeout: float = TIMEOUT_S) -> bytes:
    """The content of the answer, read as fast as it comes."""
    call = question.ask(channel, timeout)
    return whole([message async for message in call]) if question.is_stream else content(await call)


async def asked_alone(channel: grpc.aio.Channel) -> list[Known]:
    """Every question of every task, one after the other."""
    found = []
    for question in questions_of(TASKS):
        began = time.monotonic()
        answer = await answer_of(question, channel)
        found.append(Known(question, answer, time.monotonic() - began))
    return found
