# SPDX-License-Identifier: Apache-2.0
"""PNG files as their specification says: all modes, all transparency, interlaced or not, every orientation, and all metadata."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from attnserve_server.errors import InvalidRequest
from attnserve_server.tasks.fit import InputSizes
from attnserve_server.tasks.images import ImageLimits, read_picture

LIMITS = ImageLimits(max_bytes=10_000_000, max_pixels=40_000_000)
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps, of the passes of an interlaced file."""
GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
NUM_SAMPLES = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
MODES = [
    *((GREY, depth) for depth in (1, 2, 4, 8, 16)),
    *((PALETTE, depth) for depth in (1, 2, 4, 8)),
    *((colour, depth) for colour in (COLOUR, GREY_ALPHA, COLOUR_ALPHA) for depth in (8, 16)),
]
HEIGHT, WIDTH = 17, 19
Chunk = tuple[bytes, bytes]


def rows(samples: NDArray[np.int64], depth: int) -> bytes:
    """Rows of samples (height, width, samples of a pixel), each with the filter "none"."""
    flat = samples.reshape(len(samples), -1)
    if depth < 8:
        bits = (flat[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
        packed = np.packbits(bits.reshape(len(flat), -1).astype(np.uint8), axis=1)
    else:
        packed = flat.astype(">u2" if depth == 16 else np.uint8).view(np.uint8)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def png(
    samples: NDArray[np.int64],
    depth: int,
    colour: int,
    chunks: Sequence[Chunk] = (),
    *,
    interlaced: bool = False,
    late: Sequence[Chunk] = (),
) -> bytes:
    """A PNG file; ``late`` chunks stand behind the pixels."""
    height, width, _ = samples.shape
    passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [samples]
    pixels = zlib.compress(b"".join(rows(each, depth) for each in passes if each.size))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    whole = [(b"IHDR", header), *chunks, (b"IDAT", pixels), *late, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in whole
    )


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[ExifTags.Base.Orientation] = orientation
    return found.tobytes().removeprefix(b"Exif\0\0")


def upright(image: NDArray[np.float64], orientation: int) -> NDArray[np.float64]:
    """EXIF 2.3, table 6: where the first row and column are."""
    turned = image.swapaxes(0, 1) if orientation >= 5 else image
    rows_reversed, columns_reversed = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return turned[:: -1 if rows_reversed else 1, :: -1 if columns_reversed else 1]


def read(data: bytes, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> NDArray[np.float64]:
    """The pixels that the model gets, not scaled."""
    picture = read_picture(data, LIMITS, InputSizes(((shape[1], shape[0]),)))
    assert (picture.height, picture.width) == shape
    return np.frombuffer(picture.pixels, np.uint8).reshape(*shape, 3).astype(float)


def case(colour: int, depth: int, is_transparent: bool) -> tuple[NDArray[np.int64], list[Chunk], NDArray[np.float64]]:
    """Samples, chunks and expected pixels on white of one mode; with transparency, one of its colours is transparent."""
    rng = np.random.default_rng(depth)
    samples = rng.integers(0, 2**depth, (HEIGHT, WIDTH, NUM_SAMPLES[colour]))
    samples[4:9, 3:11] = samples[4, 3]
    chunks: list[Chunk] = []
    opaque, alpha = samples / (2**depth - 1) * 255, np.full((HEIGHT, WIDTH), 255.0)
    if depth == 16:
        opaque = (samples >> 8).astype(float)
    first = samples[4, 3]
    if colour == PALETTE:
        palette = rng.integers(0, 256, (2**depth, 3))
        opacities = rng.integers(0, 256, 2**depth)
        chunks.append((b"PLTE", palette.astype(np.uint8).tobytes()))
        opaque = palette[samples[..., 0]].astype(float)
        if is_transparent:
            chunks.append((b"tRNS", opacities.astype(np.uint8).tobytes()))
            alpha = opacities[samples[..., 0]].astype(float)
    elif colour in (GREY_ALPHA, COLOUR_ALPHA):
        opaque, alpha = opaque[..., :-1], opaque[..., -1]
    elif is_transparent:
        chunks.append((b"tRNS", struct.pack(f">{len(first)}H", *first)))
        alpha[(samples == first).all(-1)] = 0
    blended = opaque * alpha[..., None] / 255 + 255 - alpha[..., None]
    return samples, chunks, np.broadcast_to(blended, (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("is_transparent", [False, True], ids=["opaque", "transparent"])
@pytest.mark.parametrize(("colour", "depth"), MODES)
def test_mode_with_transparency_interlaced_and_turned(colour: int, depth: int, is_transparent: bool) -> None:
    samples, chunks, expected = case(colour, depth, is_transparent)
    for interlaced, orientation in itertools.product((False, True), range(1, 9)):
        data = png(samples, depth, colour, [*chunks, (b"eXIf", exif(orientation))], interlaced=interlaced)
        wanted = upright(expected, orientation)
        np.testing.assert_allclose(read(data, wanted.shape[:2]), wanted, atol=1.01, err_msg=f"{interlaced=} {orientation=}")


@pytest.mark.parametrize("colour", range(2))
def test_one_transparent_colour_of_two(colour: int) -> None:
    samples = np.indices((HEIGHT, WIDTH)).sum(0)[..., None] % 2
    found = read(png(samples, 1, GREY, [(b"tRNS", struct.pack(">H", colour))]))
    assert (found == np.where((samples == 1) | (samples == colour), 255, 0)).all()


LARGE = bytes(2_000_000)
XMP = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
METADATA: dict[str, list[Chunk]] = {
    "tEXt": [(b"tEXt", b"Comment\0" + LARGE.replace(b"\0", b"x"))],
    "zTXt": [(b"zTXt", b"Comment\0\0" + zlib.compress(LARGE))],
    "iTXt": [(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(LARGE))],
    "iTXt of orientation": [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LARGE))],
    "zTXt of orientation": [(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(LARGE))],
    "zTXt that is broken": [(b"zTXt", b"Comment\0\0nonsense"), (b"zTXt", b"Raw profile type exif\0\0nonsense"), (b"zTXt", b"")],
    "many": [(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(LARGE[:1_000_000]))] * 80,
    "iCCP": [(b"iCCP", b"profile\0\0" + zlib.compress(LARGE))],
    "iCCP that is broken": [(b"iCCP", b"profile\0\1nonsense")],
    "short values": [(kind, b"\0") for kind in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tIME", b"bKGD")],
    "of programs": [(b"vpAg", LARGE), (b"caNv", b"")],
}


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("name", METADATA)
def test_metadata_is_no_reason_to_refuse(name: str, place: str) -> None:
    samples, _, expected = case(COLOUR, 8, is_transparent=False)
    data = png(samples, 8, COLOUR, METADATA[name]) if place == "before" else png(samples, 8, COLOUR, late=METADATA[name])
    np.testing.assert_allclose(read(data), expected, atol=1.01)


RAW_EXIF = f"\nexif\n{len(exif(6)) + 6:8}\n{(b'Exif' + bytes(2) + exif(6)).hex()}\n".encode()


@pytest.mark.parametrize(
    "chunk",
    [
        (b"eXIf", exif(6)),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
        (b"tEXt", b"Raw profile type exif\0" + RAW_EXIF),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_EXIF)),
    ],
    ids=["eXIf", "XMP", "compressed XMP", "text", "compressed text"],
)
def test_orientation_in_metadata(chunk: Chunk) -> None:
    samples, _, expected = case(COLOUR, 8, is_transparent=False)
    large = METADATA["zTXt"]
    np.testing.assert_allclose(read(png(samples, 8, COLOUR, [*large, chunk]), (WIDTH, HEIGHT)), upright(expected, 6), atol=1.01)


def test_file_whose_chunks_are_cut_off_is_refused() -> None:
    samples, _, _ = case(COLOUR, 8, is_transparent=False)
    data = png(samples, 8, COLOUR, METADATA["zTXt"])
    for length in (8, 12, 20, 33, 40, len(data) - 600):
        with pytest.raises(InvalidRequest, match=r"begins as a PNG file, but its header cannot be read|cannot be decoded"):
            read(data[:length])
