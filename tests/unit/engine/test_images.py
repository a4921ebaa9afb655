# SPDX-License-Identifier: Apache-2.0
"""Image files to pixels: all supported formats, and files that are not images."""

from __future__ import annotations

import gc
import io
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from attnserve_server.errors import InvalidRequest
from attnserve_server.tasks.fit import InputSizes
from attnserve_server.tasks.images import MIN_SIDE, ImageLimits, Picture, read_picture
from tests.photos import FOLDER, encoded

PHOTO = FOLDER / "astronaut.jpg"
LIMITS = ImageLimits(max_bytes=10_000_000, max_pixels=40_000_000)
SIZE = (224, 224)


def read(data: bytes, limits: ImageLimits = LIMITS) -> Picture:
    return read_picture(data, limits, InputSizes((SIZE,)))


def pixels(picture: Picture) -> NDArray[np.float64]:
    return np.frombuffer(picture.pixels, np.uint8).reshape(SIZE[1], SIZE[0], 3).astype(float)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(PHOTO).convert("RGB")


@pytest.fixture(scope="module")
def wide(photo: Image.Image) -> Image.Image:
    """An image that is not square and has four different corners."""
    image = photo.resize((300, 200))
    for box, colour in (((0, 0, 60, 60), "red"), ((240, 0, 300, 60), "green"), ((0, 140, 60, 200), "blue")):
        image.paste(colour, box)
    return image


def expected(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)).astype(float)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_formats(photo: Image.Image, kind: str, options: dict[str, Any]) -> None:
    picture = read(encoded(photo, kind, **options))
    assert np.abs(pixels(picture) - expected(photo)).mean() < 2.0
    assert (picture.width, picture.height) == photo.size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(wide: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(wide, "JPEG", quality=95, exif=exif)
    seen = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert seen is not None
    picture = read(data)
    assert (picture.width, picture.height) == seen.size
    assert np.abs(pixels(picture) - expected(seen)).mean() < 1.0


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0"],
)
def test_broken_orientation_is_passed_over(wide: Image.Image, exif: bytes) -> None:
    picture = read(encoded(wide, "JPEG", quality=95, exif=exif))
    assert np.abs(pixels(picture) - expected(wide)).mean() < 2.0


def test_grey(photo: Image.Image) -> None:
    grey = photo.convert("L")
    for data in (encoded(grey, "JPEG", quality=95), encoded(grey, "PNG"), encoded(grey.convert("1"), "PNG")):
        found = pixels(read(data))
        assert (found[..., 0] == found[..., 1]).all()
        assert (found[..., 0] == found[..., 2]).all()
    assert np.abs(pixels(read(encoded(grey, "PNG"))) - expected(grey)).mean() < 1.0


def test_sixteen_bits(photo: Image.Image) -> None:
    grey = np.asarray(photo.convert("L")).astype(np.uint16)
    data = encoded(Image.fromarray(grey * 257), "PNG")
    assert np.abs(pixels(read(data)) - expected(photo.convert("L"))).mean() < 1.5


def test_cmyk(photo: Image.Image) -> None:
    assert np.abs(pixels(read(encoded(photo.convert("CMYK"), "JPEG", quality=95))) - expected(photo)).mean() < 4.0


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_transparent_is_white(photo: Image.Image, kind: str) -> None:
    see_through = photo.convert("RGBA")
    see_through.paste((255, 0, 0, 0), (0, 0, photo.width // 2, photo.height))
    found = pixels(read(encoded(see_through, kind, lossless=True) if kind == "WEBP" else encoded(see_through, kind)))
    assert (found[:, :100] == 255).all()
    assert np.abs(found[:, 124:] - expected(photo)[:, 124:]).mean() < 2.0


def test_palettes_with_transparency() -> None:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 32, 64))
    found = pixels(read(encoded(image, "PNG", transparency=0)))
    assert (found[:, :100] == 255).all()
    assert (found[:, 124:] == [0, 0, 255]).all()


@pytest.mark.load
def test_a_phones_photo_is_decoded_small(photo: Image.Image) -> None:
    data = encoded(photo.resize((4032, 3024)), "JPEG", quality=90)
    started = time.process_time()
    picture = read(data)
    seconds = time.process_time() - started
    assert (picture.width, picture.height) == (4032, 3024)
    assert np.abs(pixels(picture) - expected(photo)).mean() < 3.0
    whole = time.process_time()
    Image.open(io.BytesIO(data)).convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
    assert seconds < 0.7 * (time.process_time() - whole)


def test_photos_with_more_pictures_in_them_are_photos(photo: Image.Image) -> None:
    data = encoded(photo, "MPO", save_all=True, append_images=[photo.resize((100, 100))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.abs(pixels(read(data)) - expected(photo)).mean() < 6.0


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("name", ["astronaut", "dog", "coffee", "rocket"])
def test_jpeg_that_lacks_only_its_end_marker_is_read_as_the_whole_one(name: str, progressive: bool) -> None:
    """Browsers show such files too: all pixels are there."""
    data = encoded(Image.open(FOLDER / f"{name}.jpg"), "JPEG", quality=95, progressive=progressive)
    assert data.endswith(b"\xff\xd9")
    whole = read(data)
    assert read(data[:-2]) == read(data[:-1]) == read(data + b"more") == whole
    for missing in (len(data) // 200, len(data) // 20, len(data) // 3):
        with pytest.raises(InvalidRequest, match="cannot be decoded"):
            read(data[:-missing])


def png_of(width: int, height: int) -> bytes:
    """A few bytes whose header claims a picture of this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def frames(kind: str) -> bytes:
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    return encoded(images[0], kind, save_all=True, append_images=images[1:], duration=50)


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "must not be empty"),
    "text": (lambda: b"A dog runs across the grass.\n" * 100, "not a JPEG, PNG or WebP"),
    "half a header": (lambda: PHOTO.read_bytes()[:10], "begins as a JPEG file, but its header cannot be read"),
    "signature of a PNG": (lambda: b"\x89PNG\r\n\x1a\n", "begins as a PNG file, but its header cannot be read"),
    "name of a WebP": (lambda: b"RIFF\n\0\0\0WEBPVP8 ", "begins as a WebP file, but its header cannot be read"),
    "a JPEG after a line": (lambda: b"\n" + PHOTO.read_bytes(), "not a JPEG, PNG or WebP file: it does not begin as one"),
    "truncated JPEG": (lambda: PHOTO.read_bytes()[:8_000], "cannot be decoded"),
    "truncated PNG": (lambda: encoded(Image.open(PHOTO), "PNG")[:-5_000], "cannot be decoded"),
    "truncated WebP": (
        lambda: encoded(Image.open(PHOTO), "WEBP")[:-5_000],
        "begins as a WebP file, but its header cannot be read|cannot be decoded",
    ),
    "GIF": (lambda: encoded(Image.new("RGB", (64, 64)), "GIF"), "not a JPEG, PNG or WebP"),
    "TIFF": (lambda: encoded(Image.new("RGB", (64, 64)), "TIFF"), "not a JPEG, PNG or WebP"),
    "one pixel": (lambda: encoded(Image.new("RGB", (1, 1)), "PNG"), f"at least {MIN_SIDE} pixels in each direction; it has 1 x 1"),
    "a line": (lambda: encoded(Image.new("RGB", (20_000, 1)), "PNG"), f"at least {MIN_SIDE} pixels .* 20000 x 1"),
    "bomb": (lambda: png_of(50_000, 50_000), "pixels"),
    "smaller bomb": (lambda: png_of(7_000, 7_000), "must have at most 40,000,000 pixels; it has 7000 x 7000"),
    "fewer rows than it says": (lambda: png_of(5_000, 5_000), "cannot be decoded"),
    "animated WebP": (lambda: frames("WEBP"), "is an animation"),
    "animated PNG": (lambda: frames("PNG"), "is an animation"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_picture_is_refused(name: str) -> None:
    make, text = BROKEN[name]
    data, started = make(), time.process_time()
    with pytest.raises(InvalidRequest, match=f"^image .*({text})") as caught:
        read(data)
    assert caught.value.field == "image"
    assert time.process_time() - started < 2.0


def test_limits_come_before_the_decoder(photo: Image.Image) -> None:
    data = encoded(photo, "PNG")
    with pytest.raises(InvalidRequest, match=f"must have at most 1,000 bytes; it has {len(data):,}"):
        read(data, ImageLimits(1_000, 40_000_000))
    with pytest.raises(InvalidRequest, match="must have at most 159,999 pixels; it has 400 x 400"):
        read(data, ImageLimits(10_000_000, 159_999))
    read(data, ImageLimits(len(data), 160_000))


def test_memory_of_decoded_images_is_used_again(photo: Image.Image) -> None:
    """New memory costs more time than decoding: each of its pages is a fault."""
    data, core = encoded(photo.resize((480, 360)), "JPEG"), getattr(Image, "core")  # noqa: B009
    read(data)
    gc.collect()  # images of earlier tests that are freed meanwhile would be counted
    core.reset_stats()
    for _ in range(20):
        read(data)
    stats = core.get_stats()
    assert stats["reused_blocks"] >= 20
    assert stats["freed_blocks"] <= 2
    assert core.get_block_size() * core.get_blocks_max() <= 16 * 2**20
