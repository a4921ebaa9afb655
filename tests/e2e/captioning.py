# SPDX-License-Identifier: Apache-2.0
"""Asking a server for captions, through raw stubs."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from PIL import Image

from attnserve.v1 import caption_pb2, caption_pb2_grpc, decoding_pb2
from tests.e2e.serving import MODELS, UNARY, Server, serve

MODEL = "show-attend-tell-flickr8k"
PHOTOS = sorted((Path(__file__).parents[1] / "golden" / "photos").glob("*.jpg"))
PHOTO = PHOTOS[0].read_bytes()


def repository(folder: Path, *models: str) -> Path:
    """A model repository with the named ones of the project's."""
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


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def variations(count: int) -> list[bytes]:
    """So many different photos: the project's own, cut out and turned."""
    found = []
    for number in range(count):
        photo = Image.open(PHOTOS[number % len(PHOTOS)]).convert("RGB")
        edge = 7 * (number // len(PHOTOS)) % 90
        photo = photo.crop((edge, edge // 2, photo.width - edge // 3, photo.height - edge)).rotate(number % 7 * 3)
        found.append(encoded(photo, ("JPEG", "PNG", "WEBP")[number % 3], quality=80))
    return found
