# SPDX-License-Identifier: Apache-2.0
"""No text and no image of a client is in the server's log, its metrics, or the details of errors.

Every string and every bytes field of every request that the server offers has a mark. Names of models and versions are no texts: an
error that does not find one repeats it to the client that sent it, and they are in neither log nor metrics.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from PIL import Image, PngImagePlugin

from attnserve.v1.caption_pb2 import CaptionRequest, CaptionStreamRequest
from attnserve.v1.classification_pb2 import ClassifyImageRequest
from attnserve.v1.decoding_pb2 import DecodeOptions, SamplingOptions
from attnserve.v1.generation_pb2 import GenerateImageRequest
from attnserve.v1.segmentation_pb2 import SegmentRequest
from attnserve.v1.translation_pb2 import TranslateRequest, TranslateStreamRequest
from tests.e2e.captioning import PHOTO
from tests.e2e.every_task import serve_every_task
from tests.e2e.serving import Server, eventually
from tests.e2e.wire import Rpc, ended, rpcs, strings_of
from tests.photos import encoded

MARK = "Qzx7"
"""Four characters, since the type of a PNG chunk has four."""
NAMES = ("model", "version", "service")
TEXTS = (
    f"A dog named {MARK} runs.",
    MARK,
    f"{MARK} " * 200,
    f"{MARK}\n" * 50,
    f"One {MARK}. Two {MARK}! Three?",
    f"{MARK}" * 3000,
    f"{MARK}\x00\u200b🎸",
    f"\n2026-01-01 ERROR {MARK}",
)
OPTIONS = (
    None,
    DecodeOptions(beam_size=4, num_hypotheses=2, return_attention=3),
    DecodeOptions(prefix=f"Ein {MARK}"),
    DecodeOptions(prefix=f"{MARK} 🎸 漢字"),
    DecodeOptions(prefix=MARK * 5000),
    DecodeOptions(sampling=SamplingOptions(), max_tokens=9),
    DecodeOptions(beam_size=999),
    DecodeOptions(max_tokens=1, prefix=MARK),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("marked")
    with serve_every_task(
        folder, "--workers", "1", "--log-level", "debug", "--log-format", "json", "--cache-bytes", "1000000"
    ) as running:
        yield running


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def marked_images() -> list[bytes]:
    """Sound images with the mark in their metadata, broken ones, and bytes that are no image."""
    photo = Image.open(io.BytesIO(PHOTO)).convert("RGB").resize((64, 48))
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = MARK * 4
    info = PngImagePlugin.PngInfo()
    info.add_text(MARK, MARK * 3)
    png = encoded(photo, "PNG", pnginfo=info)
    jpeg, webp = encoded(photo, "JPEG", exif=exif, comment=MARK.encode()), encoded(photo, "WEBP", exif=exif)
    files = [
        png,
        jpeg,
        webp,
        MARK.encode(),
        MARK.encode() * 100,
        b"\x89PNG\r\n\x1a\n" + MARK.encode() * 9,
        b"\xff\xd8" + MARK.encode() * 9,
    ]
    head = png[:33]
    return [*files, jpeg[:300] + MARK.encode() * 9, png[:200] + MARK.encode(), head + chunk(MARK.encode(), b"x")]


def requests() -> list[tuple[str, bytes]]:
    """Method and bytes of requests that are answered, refused, or fail."""
    found = []
    for text in TEXTS:
        for options in OPTIONS:
            for kind, method in ((TranslateRequest, "Translate"), (TranslateStreamRequest, "TranslateStream")):
                found.append((method, kind(text=text, options=options, split_sentences=len(text) % 2 == 0).SerializeToString()))
    for image in marked_images():
        for options in OPTIONS:
            for other, method in ((CaptionRequest, "Caption"), (CaptionStreamRequest, "CaptionStream")):
                found.append((method, other(image=image, options=options).SerializeToString()))
        found.append(("Segment", SegmentRequest(image=image, return_unary=True).SerializeToString()))
        found.append(("GenerateImage", GenerateImageRequest(class_name=MARK).SerializeToString()))
        found.append(("ClassifyImage", ClassifyImageRequest(image=image).SerializeToString()))
    return found


def check_end(call: Any, rpc: Rpc, allowed: str = "") -> grpc.StatusCode:
    """Checks that neither status nor trailers of a call have the mark, in any encoding that a client sees."""
    code, said, trailers = ended(call, rpc.is_streaming, most=0 if rpc.method.name == "Watch" else 10_000)
    shown = said + "".join(value.decode("latin-1") if isinstance(value, bytes) else value for _, value in trailers)
    assert allowed in NAMES or MARK not in shown, (rpc, code, shown)
    return code


def traces(server: Server) -> str:
    """All that an operator sees of a server."""
    folder = server.log.parent
    files = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.iterdir()) if path.is_file()]
    pages = [server.http(path)[1] for path in ("/metrics", "/healthz", f"/{MARK}"[:1])]
    return "\n".join([*files, *pages])


def test_mark_is_in_no_trace_of_answers_and_errors(server: Server, channel: grpc.Channel) -> None:
    by_name = {rpc.method.name: rpc for rpc in rpcs(channel)}
    codes = {check_end(by_name[name].start(channel, [data], 60.0), by_name[name]) for name, data in requests()}
    assert codes >= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
    eventually(lambda: "Translate INVALID_ARGUMENT" in traces(server), "the lines of the calls")
    assert MARK not in traces(server)
    server.assert_unharmed()


def test_mark_in_every_field_of_every_rpc_is_in_no_trace(server: Server, channel: grpc.Channel) -> None:
    for rpc in rpcs(channel):
        kind = message_factory.GetMessageClass(rpc.method.input_type)
        names = list(strings_of(rpc.method.input_type, lambda name: MARK))
        for marked in [*names, *names]:
            fields = strings_of(
                rpc.method.input_type, lambda name, marked=marked: MARK if name == marked or name not in NAMES else ""
            )
            only = fields if marked in fields else {}
            if rpc.path.startswith("/grpc.reflection"):
                only = {marked: fields[marked]}
            call = rpc.start(channel, [kind(**only).SerializeToString()], 60.0)
            check_end(call, rpc, marked if not rpc.path.startswith("/grpc.reflection") else "service")
    assert MARK not in traces(server)


def test_mark_in_bytes_that_are_no_message_is_in_no_trace(server: Server, channel: grpc.Channel) -> None:
    rng, mark = random.Random(1), MARK.encode()
    for rpc in rpcs(channel):
        for data in (mark, b"\x0a\x04" + mark[:2], b"\x0a\x05\xff" + mark, b"\xff" + mark * 3, rng.randbytes(5) + mark * 2):
            check_end(rpc.start(channel, [data], 60.0), rpc)
    assert MARK not in traces(server)


def test_mark_of_a_cancelled_and_of_a_late_request_is_in_no_trace(server: Server, channel: grpc.Channel) -> None:
    by_name = {rpc.method.name: rpc for rpc in rpcs(channel)}
    data = TranslateStreamRequest(text=f"red {MARK} , " * 12).SerializeToString()
    for rpc in (by_name["TranslateStream"], by_name["Translate"]):
        for timeout in (0.001, 0.01, 0.05):
            assert check_end(rpc.start(channel, [data], timeout), rpc) in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK)
        call = rpc.start(channel, [data], 60.0)
        call.cancel()
        assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.OK)  # OK if the answer was faster
    eventually(lambda: server.scrape().total("attnserve_slots", state="used") == 0, "all slots free")
    assert MARK not in traces(server)


def test_mark_in_a_log_would_be_seen(server: Server, channel: grpc.Channel) -> None:
    assert MARK not in traces(server)
    rpc = next(rpc for rpc in rpcs(channel) if rpc.method.name == "Translate")
    data = TranslateRequest(text="a dog").SerializeToString()
    ended(rpc.start(channel, [data], 60.0, (("x-request-id", f"id-{MARK}"),)), is_streaming=False)
    eventually(lambda: MARK in traces(server), "the request id in the log")
    assert Path(server.log).read_text(encoding="utf-8").count(MARK) >= 1
