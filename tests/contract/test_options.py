# SPDX-License-Identifier: Apache-2.0
"""No field of a request is ignored: each changes what is submitted, or is refused. A new field must be added here."""

from __future__ import annotations

from typing import Any

import pytest

from attnserve.v1 import caption_pb2, decoding_pb2, manifest_pb2, translation_pb2
from attnserve_server.dataplane.call import Call
from attnserve_server.dataplane.plane import DataPlane
from attnserve_server.errors import ServiceError
from attnserve_server.request import ImageSource
from attnserve_server.tasks.fit import InputSizes
from attnserve_server.tasks.images import ImageLimits, Picture, read_picture
from attnserve_server.tasks.interface import Limits
from attnserve_server.transport.rpc.v1.caption import CaptionServicer
from attnserve_server.transport.rpc.v1.translation import TranslationServicer
from tests.fakes.dataplane import Front, Recorder, Translator, letters_model
from tests.photos import PHOTOS

TEXT = "ab\ncd"
LIMITS = Limits(1000, ImageLimits(1_000_000, 1_000_000))
CHANGES: dict[str, dict[str, Any]] = {
    "TranslateRequest": {
        "text": "other",
        "model": "second",
        "version": "2",
        "options": decoding_pb2.DecodeOptions(beam_size=2),
        "split_sentences": True,
        "priority": 1,
    },
    "DecodeOptions": {
        "beam_size": 2,
        "num_hypotheses": 2,
        "length_penalty": 0.5,
        "coverage_penalty": 0.5,
        "max_tokens": 5,
        "min_tokens": 5,
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.5,
        "sampling": decoding_pb2.SamplingOptions(seed=1),
        "prefix": "X",
        "return_attention": decoding_pb2.ATTENTION_DETAIL_MEAN,
        "omit_score": True,
    },
    "SamplingOptions": {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "seed": 4},
}
"""For each message, a value of each field that is not its default."""


async def submitted(**fields: Any) -> list[Any]:
    """The work that reaches the front for a request, or the field that is refused."""
    front = Front(letters_model(), letters_model(version="2"), letters_model("second"))
    servicer, call = TranslationServicer(DataPlane(front, Recorder(), LIMITS)), Call("id")
    request = translation_pb2.TranslateRequest(**{"text": TEXT, **fields})
    try:
        await servicer.translate(request, call)
    except ServiceError as error:
        return [error.field]
    assert call.model is not None
    return [(call.model.id, call.model.version, ticket.tokens, ticket.options, ticket.terms) for ticket in front.tickets]


def request_of(message: str, name: str, value: Any) -> dict[str, Any]:
    match message:
        case "TranslateRequest":
            return {name: value}
        case "DecodeOptions":
            return {"options": decoding_pb2.DecodeOptions(**{name: value})}
        case _:
            sampling = decoding_pb2.SamplingOptions(**{"seed": 1, name: value})
            return {"options": decoding_pb2.DecodeOptions(sampling=sampling)}


def test_all_fields_are_known_here() -> None:
    for message in (translation_pb2.TranslateRequest, decoding_pb2.DecodeOptions, decoding_pb2.SamplingOptions):
        assert set(message.DESCRIPTOR.fields_by_name) == set(CHANGES[message.DESCRIPTOR.name])


def test_a_stream_takes_what_a_single_answer_takes() -> None:
    unary, stream = translation_pb2.TranslateRequest.DESCRIPTOR, translation_pb2.TranslateStreamRequest.DESCRIPTOR
    assert [(f.name, f.number, f.type) for f in unary.fields] == [(f.name, f.number, f.type) for f in stream.fields]


@pytest.mark.parametrize(("message", "name"), [(message, name) for message, names in CHANGES.items() for name in names])
async def test_no_field_is_ignored(message: str, name: str) -> None:
    before = await submitted(**(request_of(message, "seed", 1) if message == "SamplingOptions" else {}))
    assert before == await submitted(**(request_of(message, "seed", 1) if message == "SamplingOptions" else {}))
    assert before != await submitted(**request_of(message, name, CHANGES[message][name]))


async def test_a_field_that_is_ignored_is_seen() -> None:
    """The comparison requires this: two equal requests reach the front as equal work."""
    assert await submitted() == await submitted(options=decoding_pb2.DecodeOptions(return_attention=1))


CAPTION_CHANGES: dict[str, Any] = {
    "image": PHOTOS[1].read_bytes(),
    "model": "second",
    "version": "2",
    "options": decoding_pb2.DecodeOptions(beam_size=2),
    "priority": 1,
}


class Captioner(Translator):
    """Reads images as the real one does."""

    def read(self, data: bytes, limits: ImageLimits) -> Picture:
        return read_picture(data, limits, InputSizes(((224, 224),)))

    def source_of(self, picture: Picture) -> ImageSource:
        return ImageSource(picture.pixels, 49)


async def submitted_caption(**fields: Any) -> list[Any]:
    """As :func:`submitted`, of a captioning model."""
    models = [
        letters_model(loaded=Captioner()),
        letters_model(version="2", loaded=Captioner()),
        letters_model("second", loaded=Captioner()),
    ]
    for model in models:
        model.manifest.task = manifest_pb2.TASK_CAPTION
    front = Front(*models)
    plane = DataPlane(front, Recorder(), LIMITS)
    servicer, call = CaptionServicer(plane), Call("id")
    try:
        await servicer.caption(caption_pb2.CaptionRequest(**{"image": PHOTOS[0].read_bytes(), **fields}), call)
    except ServiceError as error:
        return [error.field]
    finally:
        plane.close()
    assert call.model is not None
    return [(call.model.id, call.model.version, ticket.tokens, ticket.options, ticket.terms) for ticket in front.tickets]


@pytest.mark.parametrize("name", CAPTION_CHANGES)
async def test_no_field_of_a_caption_is_ignored(name: str) -> None:
    assert set(CAPTION_CHANGES) == set(caption_pb2.CaptionRequest.DESCRIPTOR.fields_by_name)
    before = await submitted_caption()
    assert len(before) == 1
    assert before == await submitted_caption()
    assert before != await submitted_caption(**{name: CAPTION_CHANGES[name]})


@pytest.mark.parametrize("name", CHANGES["DecodeOptions"])
async def test_no_option_of_a_caption_is_ignored(name: str) -> None:
    options = decoding_pb2.DecodeOptions(**{name: CHANGES["DecodeOptions"][name]})
    assert await submitted_caption() != await submitted_caption(options=options)


def test_a_stream_of_captions_takes_what_a_single_one_takes() -> None:
    unary, stream = caption_pb2.CaptionRequest.DESCRIPTOR, caption_pb2.CaptionStreamRequest.DESCRIPTOR
    assert [(f.name, f.number, f.type) for f in unary.fields] == [(f.name, f.number, f.type) for f in stream.fields]
