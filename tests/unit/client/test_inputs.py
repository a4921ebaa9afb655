# SPDX-License-Identifier: Apache-2.0
"""What the clients take as images, clips and values of fields, and the errors for what they do not take."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnserve_client import AsyncClient, AttnserveError, Client, InvalidRequest
from tests.fakes.server import FakeServer
from tests.unit.client.pictures import file_of

IMAGES: dict[str, Callable[[Any, Any], Any]] = {
    "caption": lambda client, image: client.caption(image),
    "caption_stream": lambda client, image: list(client.caption_stream(image)),
    "caption_many": lambda client, image: _only(client.caption_many([image])),
    "segment": lambda client, image: client.segment(image),
    "segment_many": lambda client, image: _only(client.segment_many([image])),
    "classify_image": lambda client, image: client.classify_image(image),
    "classify_many": lambda client, image: _only(client.classify_many([image])),
    "classify_video": lambda client, image: client.classify_video([image]),
    "classify_video_many": lambda client, image: _only(client.classify_video_many([[image]])),
}
"""Calls of all methods that take an image."""
CLIPS: dict[str, Callable[[Any, Any], Any]] = {
    "classify_video": lambda client, clip: client.classify_video(clip),
    "classify_video_many": lambda client, clip: _only(client.classify_video_many([clip])),
}
"""Calls of all methods that take a clip."""


def _only(answers: Any) -> Any:
    (answer,) = answers
    if isinstance(answer, AttnserveError):
        raise answer
    return answer


def images_sent(server: FakeServer) -> list[bytes]:
    requests = [*server.captions.requests, *server.segmentation.requests, *server.classification.requests]
    return [image for each in requests for image in (getattr(each, "frames", None) or [each.image])]


@pytest.mark.parametrize("call", IMAGES.values(), ids=IMAGES)
def test_image_may_be_bytes_or_a_file_object(client: Any, server: FakeServer, tmp_path: Path, call: Any) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(file_of())
    with path.open("rb") as opened:
        for image in (file_of(), bytearray(file_of()), memoryview(file_of()), path, str(path), opened, io.BytesIO(file_of())):
            call(client, image)
    assert images_sent(server) == [file_of()] * 7


@pytest.mark.parametrize("call", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "YCbCr"])
def test_image_of_pillow_is_sent_as_a_file(client: Any, server: FakeServer, call: Any, mode: str) -> None:
    image = Image.new("RGB", (60, 40), "white").convert(mode)
    call(client, image)
    (sent,) = images_sent(server)
    read = Image.open(io.BytesIO(sent))
    assert (read.format, read.size) == ("PNG", (60, 40))
    assert np.asarray(read.convert("RGB")).min() >= 254


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "I;16L", "I;16N"])
def test_image_of_pillow_keeps_greys_above_255(client: Any, server: FakeServer, mode: str) -> None:
    greys = np.arange(100, 65000, 16, np.uint16)[:4032].reshape(63, 64)
    kind = {"I": "i4", "I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
    client.segment(Image.frombytes(mode, (64, 63), greys.astype(kind).tobytes()))
    (sent,) = images_sent(server)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sent))), greys)


def test_image_of_pillow_keeps_its_orientation(client: Any, server: FakeServer) -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (60, 40)).save(file, "JPEG", exif=exif)
    client.segment(Image.open(file))
    assert Image.open(io.BytesIO(images_sent(server)[0])).getexif()[0x112] == 6


def text_file(path: Path) -> Any:
    path.write_text("text", encoding="utf-8")
    return path.open(encoding="utf-8")


def closed_file(path: Path) -> Any:
    path.touch()
    opened = path.open("rb")
    opened.close()
    return opened


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "array": (lambda path: np.zeros((4, 4, 3), np.uint8), r"not numpy.ndarray; make an image of an array: PIL.Image.fromarray"),
    "None": (
        lambda path: None,
        "the bytes of a file, its path, or a file opened in binary mode, or an image of Pillow, not NoneType",
    ),
    "number": (lambda path: 5, "not int"),
    "text mode": (text_file, r'opened in binary mode, as by open\(path, "rb"\)'),
    "closed": (closed_file, "cannot be read: .*closed"),
    "read": (lambda path: io.BytesIO(), "nothing left to read; seek"),
    "mode": (lambda path: Image.new("La", (4, 4)), "of Pillow's mode La cannot be written as PNG"),
    "floats": (lambda path: Image.new("F", (4, 4), 1000.0), "mode F cannot be written as PNG: .*scale them to 0 to 255"),
    "negative": (lambda path: Image.new("I", (4, 4), -1), "its values go from -1 to -1, and 16 bits hold 0 to 65535"),
    "17 bits": (lambda path: Image.new("I", (4, 4), 65536), "its values go from 65536 to 65536"),
}
"""Values that are no image, and the words of their errors."""


@pytest.mark.parametrize("call", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize(("make", "words"), WRONG.values(), ids=WRONG)
def test_what_is_no_image_gets_an_error_that_says_what_is_one(
    client: Any, server: FakeServer, tmp_path: Path, call: Any, make: Callable[[Path], Any], words: str
) -> None:
    wrong = make(tmp_path / "file")
    with pytest.raises(InvalidRequest, match=words) as caught:
        call(client, wrong)
    assert caught.value.field in ("image", "frames[0]")
    assert images_sent(server) == []
    if isinstance(wrong, io.IOBase):
        wrong.close()


@pytest.mark.parametrize("call", CLIPS.values(), ids=CLIPS)
def test_clip_may_be_a_file_object(client: Any, server: FakeServer, tmp_path: Path, call: Any) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"video")
    with path.open("rb") as opened:
        for clip in (b"video", path, opened):
            call(client, clip)
    assert [each.video for each in server.classification.requests] == [b"video"] * 3


@pytest.mark.parametrize("call", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize(
    ("clip", "field", "words"),
    [
        (5, "video", "or a list of image files, not int"),
        (None, "video", "not NoneType"),
        (Image.new("RGB", (4, 4)), "video", "not PIL.Image.Image; put it in a list"),
        (np.zeros((2, 4, 4, 3), np.uint8), "frames[0]", "PIL.Image.fromarray"),
        ([file_of(), 5], "frames[1]", "not int"),
    ],
    ids=["number", "None", "image", "array", "frame"],
)
def test_what_is_no_clip_gets_an_error_that_says_what_is_one(client: Any, call: Any, clip: Any, field: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        call(client, clip)
    assert caught.value.field == field


def test_pillow_is_not_imported_for_files() -> None:
    program = "import sys; from attnserve_client.image_files import image_bytes; image_bytes(b'x'); sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


FILES_MANY = ["caption_many", "segment_many", "classify_many", "classify_video_many"]


@pytest.mark.parametrize("name", ["translate_many", *FILES_MANY])
@pytest.mark.parametrize(
    "one",
    ["one", b"one", bytearray(b"one"), memoryview(b"one"), Path("one"), Image.new("L", (4, 4))],
    ids=lambda one: type(one).__name__,
)
def test_one_item_where_many_are_expected(client: Any, name: str, one: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"several items are expected, not one {type(one).__name__}: put it in a list"):
        list(getattr(client, name)(one))


@pytest.mark.parametrize("name", FILES_MANY)
def test_one_file_object_where_many_are_expected(client: Any, server: FakeServer, name: str) -> None:
    with pytest.raises(InvalidRequest, match="several items are expected, not one BytesIO: put it in a list"):
        list(getattr(client, name)(io.BytesIO(file_of())))
    assert images_sent(server) == []


@pytest.mark.parametrize("name", ["translate_many", *FILES_MANY])
@pytest.mark.parametrize("wrong", [None, 5])
def test_what_has_no_items_where_many_are_expected(client: Any, name: str, wrong: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^several items are expected, not {type(wrong).__name__}$"):
        list(getattr(client, name)(wrong))


def test_lines_of_a_text_file_are_many_texts(client: Any, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a dog\nruns\n", encoding="utf-8")
    with (tmp_path / "lines.txt").open(encoding="utf-8") as lines:
        assert [answer.text for answer in client.translate_many(lines)] == ["DOG A", "RUNS"]


@pytest.mark.parametrize(
    ("call", "message", "field"),
    [
        (lambda client: client.translate(None), "text must be a string, not NoneType", "text"),
        (lambda client: client.translate(b"\xff"), "text must be a string, not bytes", "text"),
        (lambda client: client.translate(["a dog"]), "text must be a string, not list", "text"),
        (lambda client: list(client.translate_stream(5)), "text must be a string, not int", "text"),
        (lambda client: client.translate("a", model=b"\xff"), "model must be a string, not bytes", "model"),
        (lambda client: client.translate("a", version=2), "version must be a string, not int", "version"),
        (lambda client: client.get_model(["m"]), "model must be a string, not list", "model"),
        (lambda client: client.translate("a", beam_size="4"), "beam_size must be an integer from 0 to 4294967295, not str", None),
        (lambda client: client.translate("a", beam_size=-1), "beam_size must be an integer from 0 to 4294967295; it is -1", None),
        (lambda client: client.translate("a", length_penalty="x"), "length_penalty must be a number, not str", None),
        (
            lambda client: client.translate("a", length_penalty=10**400),
            "length_penalty must be a number within ±1.8e+308; it is an integer of 1,329 bits",
            None,
        ),
        (
            lambda client: client.translate("a", beam_size=10**5000),
            "beam_size must be an integer from 0 to 4294967295; it is an integer of 16,610 bits",
            None,
        ),
        (lambda client: client.translate("a", omit_score="x"), "omit_score must be True or False, not str", None),
        (
            lambda client: client.translate("a", options={"beam_size": 4}),
            "options must be DecodeOptions, not dict; single options are keywords, such as beam_size=4",
            "options",
        ),
        (
            lambda client: client.translate("a", priority=2**31),
            "priority must be an integer from -2147483648 to 2147483647; it is 2147483648",
            "priority",
        ),
        (
            lambda client: client.generate_image("cat", seed=-1),
            "seed must be an integer from 0 to 18446744073709551615; it is -1",
            "seed",
        ),
        (lambda client: client.generate_image(None), "class_name must be a string, not NoneType", "class_name"),
        (lambda client: client.classify_image(file_of(), top_k=None), "top_k must be an integer", "top_k"),
    ],
)
def test_value_of_a_wrong_type_or_range_is_named(client: Any, call: Any, message: str, field: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call(client)
    assert caught.value.message.startswith(message)
    assert field is None or caught.value.field == field


def test_client_shows_its_address_and_whether_it_is_closed(server: FakeServer) -> None:
    with Client(server.address) as client:
        assert repr(client) == f"<Client of {server.address}, open>"
    assert repr(client) == f"<Client of {server.address}, closed>"


async def test_client_for_asyncio_shows_the_same(server: FakeServer) -> None:
    async with AsyncClient(server.address) as client:
        assert repr(client) == f"<AsyncClient of {server.address}, open>"
    assert repr(client) == f"<AsyncClient of {server.address}, closed>"


def test_no_model_is_the_default(client: Any, server: FakeServer) -> None:
    client.translate("a", model=None, version=None)
    assert (server.translation.requests[0].model, server.translation.requests[0].version) == ("", "")
