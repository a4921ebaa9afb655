# SPDX-License-Identifier: Apache-2.0
"""Requests captions from a server, through raw stubs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from attnserve.v1 import caption_pb2, caption_pb2_grpc, decoding_pb2
from tests.e2e.serving import MODELS, UNARY, Server, serve
from tests.photos import PHOTOS

MODEL = "show-attend-tell-flickr8k"
PHOTO = PHOTOS[0].read_bytes()


def repository(folder: Path, *models: str) -> Path:
    """A model repository with the named models of the project."""
    found = folder / "models"
    found.mkdir(parents=True, exist_ok=True)
    for name in models:
        if not (found / name).exists():
            (found / name).symlink_to(MODELS / name, target_is_directory=True)
    return found


@contextlib.contextmanager
def serve_captions(folder: Path, *flags: str) -> Iterator[Server]:
    """A server of the captioning model and of one translation model."""
    with serve(folder, "--models", str(repository(folder, MODEL, "transformer-en-de")), *flags) as server:
        yield server


def caption(
    channel: grpc.Channel,
    image: bytes = PHOTO,
    options: decoding_pb2.DecodeOptions | None = None,
    *,
    kind: str = UNARY,
    **fields: Any,
) -> caption_pb2.CaptionResponse:
    """One caption, unary or the result of a stream."""
    stub = caption_pb2_grpc.CaptionServiceStub(channel)
    if kind == UNARY:
        return stub.Caption(caption_pb2.CaptionRequest(image=image, options=options, **fields), timeout=60)
    *deltas, last = list(stub.CaptionStream(caption_pb2.CaptionStreamRequest(image=image, options=options, **fields), timeout=60))
    best = last.result.hypotheses[0]
    assert "".join(message.delta.text for message in deltas) == best.text
    assert [piece for message in deltas for piece in message.delta.pieces] == list(best.pieces)
    return last.result


def start_caption(channel: grpc.Channel, image: bytes, options: decoding_pb2.DecodeOptions | None = None):
    """One unary caption, as a future."""
    stub = caption_pb2_grpc.CaptionServiceStub(channel)
    return stub.Caption.future(caption_pb2.CaptionRequest(image=image, options=options), timeout=60)
