# SPDX-License-Identifier: Apache-2.0
"""SegmentationService on a real port, with a model whose classes are the red values of the picture's pixels."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.rpc import error_details_pb2
from numpy.typing import NDArray
from PIL import ExifTags, Image

from attnserve.v1 import segmentation_pb2, segmentation_pb2_grpc
from attnserve_server.tasks import segmentation
from attnserve_server.tasks.class_map import ClassMap
from tests.fakes.pass_models import COLOURS, NUM_QUERIES, PassFront, classifier, image_of, numbers, segmenter
from tests.photos import encoded
from tests.unit.server_shell.conftest import Shell, ShellFactory
from tests.unit.server_shell.test_rpc import detail, failure, reason

PNG, RUNS, RAW = (
    segmentation_pb2.CLASS_MAP_FORMAT_PNG,
    segmentation_pb2.CLASS_MAP_FORMAT_RUN_LENGTHS,
    segmentation_pb2.CLASS_MAP_FORMAT_RAW,
)
Pixel = segmentation_pb2.Pixel


def picture(width: int = 480, height: int = 360) -> Image.Image:
    """Four vertical stripes, one of each class; green is 255 in the upper half and 51 in the lower one."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width) * 4 // width * 64 + 20
    pixels[..., 1] = np.where(np.arange(height) < height // 2, 255, 51)[:, None]
    return Image.fromarray(pixels)


@pytest.fixture
async def shell(make_shell: ShellFactory) -> AsyncIterator[Shell]:
    return await make_shell(PassFront())


async def segment(shell: Shell, image: bytes | Image.Image, **fields: Any) -> segmentation_pb2.SegmentResponse:
    data = encoded(image, "PNG") if isinstance(image, Image.Image) else image
    stub: Any = segmentation_pb2_grpc.SegmentationServiceStub(shell.channel)
    return await stub.Segment(segmentation_pb2.SegmentRequest(image=data, **fields))


def map_of(answer: segmentation_pb2.SegmentResponse) -> NDArray[np.uint8]:
    """The class map (height, width) of an answer in any form."""
    found = answer.map
    match found.WhichOneof("form"):
        case "png":
            return np.asarray(Image.open(io.BytesIO(found.png)))
        case "runs":
            flat = np.repeat(np.array(found.runs.classes, np.uint8), found.runs.lengths)
        case _:
            flat = np.frombuffer(found.raw, np.uint8)
    return flat.reshape(found.height, found.width)


async def test_answer_has_the_classes_of_the_image(shell: Shell) -> None:
    answer = await segment(shell, picture())
    assert (answer.model, answer.version) == ("segmenter", "1")
    assert (map_of(answer) == np.arange(480) * 4 // 480).all()
    palette = Image.open(io.BytesIO(answer.map.png)).getpalette() or []
    assert bytes(palette) == b"".join(colour.to_bytes(3, "big") for colour in COLOURS.values())
    assert [(each.index, each.name, each.colour) for each in answer.classes] == [
        (index, *each) for index, each in enumerate(COLOURS.items())
    ]
    assert [each.share for each in answer.classes] == [0.25] * 4
    assert all(each.confidence == pytest.approx(0.6) for each in answer.classes)
    assert not answer.HasField("attention")
    times = answer.timings
    assert 0 < times.preparation_seconds < times.total_seconds
    assert (times.run_seconds, times.batch_size) == (0.25, 2)
    assert shell.recorder.counted == [("done", "segmenter", "1", "Segment", "OK")]


@pytest.mark.parametrize("size", [(480, 360), (1001, 333), (100, 90), (90, 700), (64, 1600)])
async def test_forms_say_the_same_at_the_size_of_the_image(shell: Shell, size: tuple[int, int]) -> None:
    image = picture(*size)
    answers = [await segment(shell, image, format=form) for form in (0, PNG, RUNS, RAW)]
    assert [each.map.WhichOneof("form") for each in answers] == ["png", "png", "runs", "raw"]
    maps = [map_of(each) for each in answers]
    for answer, found in zip(answers, maps, strict=True):
        assert found.shape == (size[1], size[0]) == (answer.map.height, answer.map.width)
        assert (found == maps[0]).all()
        shares = np.bincount(found.reshape(-1), minlength=4) / found.size
        assert [each.share for each in answer.classes] == shares.tolist()
    assert (maps[0][:, size[0] // 8 :: size[0] // 4][:, :4] == [0, 1, 2, 3]).all(), "in the middle of the stripes"


async def test_classes_that_do_not_occur_are_listed(shell: Shell) -> None:
    answer = await segment(shell, Image.new("RGB", (64, 64), (70, 0, 0)))
    assert [each.share for each in answer.classes] == [0, 1, 0, 0]
    assert [each.confidence for each in answer.classes] == [0] * 4


async def test_padding_is_black_and_its_size_is_sent_to_the_model(shell: Shell) -> None:
    await segment(shell, Image.new("RGB", (500, 333), "white"))
    (payload,) = shell.front.payloads
    image, (height, width) = image_of(payload), numbers(payload.inputs["size"])
    assert image.shape == (360, 480, 3)
    assert (height, width) == (320, 480)
    assert (image[:height, :width] == 255).all()
    assert not image[height:].any()
    assert (payload.num_source, payload.wants_attention, set(payload.inputs)) == (23 * 30, False, {"image", "size"})


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
async def test_turned_photo_is_segmented_upright(shell: Shell, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    image = picture(600, 400)
    lying = image.transpose(turn[orientation]) if orientation in turn else image
    answer = await segment(shell, encoded(lying, "PNG", exif=exif))
    assert map_of(answer).shape == (400, 600)
    assert ((map_of(answer) != np.arange(600) * 4 // 600).mean()) < 0.02


# --- Attention ---


@pytest.mark.parametrize(
    ("size", "grid"), [((480, 360), (23, 30)), ((500, 333), (20, 30)), ((1920, 1080), (17, 30)), ((60, 20), (10, 30))]
)
async def test_attention_is_cropped_to_the_cells_of_the_picture(shell: Shell, size: tuple[int, int], grid: tuple[int, int]) -> None:
    answer = await segment(shell, picture(*size), return_unary=True, queries=[Pixel(x=0, y=0), Pixel(x=size[0] - 1, y=size[1] - 1)])
    attention, cells = answer.attention, grid[0] * grid[1]
    assert (attention.rows, attention.columns, len(attention.unary)) == (*grid, cells)
    assert sum(attention.unary) == pytest.approx(1, abs=1e-5)
    assert list(attention.unary) == sorted(attention.unary, reverse=True), "row-major"
    assert [each.cell for each in attention.pairwise] == [0, cells - 1]
    assert [each.query for each in attention.pairwise] == [Pixel(x=0, y=0), Pixel(x=size[0] - 1, y=size[1] - 1)]
    for each in attention.pairwise:
        assert len(each.weights) == cells
        assert sum(each.weights) == pytest.approx(1, abs=1e-5)
        assert np.argmax(each.weights) == each.cell, "the model has put most weight there"
    assert attention.cell_width * (attention.columns - 1) < size[0] <= attention.cell_width * attention.columns + 1e-3
    assert attention.cell_height * (attention.rows - 1) < size[1] <= attention.cell_height * attention.rows + 1e-3


async def test_every_query_finds_its_cell(shell: Shell) -> None:
    rng = np.random.default_rng(0)
    pixels = [Pixel(x=int(x), y=int(y)) for x, y in zip(rng.integers(0, 500, 16), rng.integers(0, 333, 16), strict=True)]
    attention = (await segment(shell, picture(500, 333), queries=pixels)).attention
    assert not attention.unary
    for pixel, each in zip(pixels, attention.pairwise, strict=True):
        row, column = divmod(each.cell, attention.columns)
        assert column * attention.cell_width - 1 <= pixel.x < (column + 1) * attention.cell_width + 1
        assert row * attention.cell_height - 1 <= pixel.y < (row + 1) * attention.cell_height + 1


async def test_unary_map_alone(shell: Shell) -> None:
    attention = (await segment(shell, picture(), return_unary=True)).attention
    assert len(attention.unary) == 23 * 30
    assert not attention.pairwise
    assert numbers(shell.front.payloads[0].inputs["query"]) == [0] * NUM_QUERIES


# --- Bad input ---


def frames() -> bytes:
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green")]
    return encoded(images[0], "WEBP", save_all=True, append_images=images[1:])


BAD: dict[str, tuple[str, str, Any, dict[str, Any]]] = {
    "empty": ("image", "must not be empty", b"", {}),
    "text": ("image", "not a JPEG, PNG or WebP", b"I am a photo, I promise.", {}),
    "truncated": ("image", "cannot be decoded", lambda: encoded(picture(), "JPEG")[:2000], {}),
    "bomb": ("image", "pixels", lambda: encoded(Image.new("1", (20_000, 20_000), 1), "PNG"), {}),
    "one pixel": ("image", "at least 16 pixels", Image.new("RGB", (1, 1)), {}),
    "a line": ("image", "at least 16 pixels", Image.new("RGB", (20_000, 1)), {}),
    "animated": ("image", "animation", frames, {}),
    "17 queries": ("queries", "must be at most 16; there are 17", picture(), {"queries": [Pixel()] * 17}),
    "query on the right": ("queries[3].x", "must be below 480", picture(), {"queries": [*[Pixel()] * 3, Pixel(x=480)]}),
    "query below": ("queries[0].y", "must be below 360: the image has 480 x 360; it is 360", picture(), {"queries": [Pixel(y=360)]}),
    "query far away": ("queries[1].x", "4294967295", picture(), {"queries": [Pixel(), Pixel(x=2**32 - 1, y=2**32 - 1)]}),
    "format": ("format", "has the unknown value 9", picture(), {"format": 9}),
    "priority": ("priority", "must be from -2 to 2", picture(), {"priority": 3}),
    "another task": ("model", "the model classifier does not segment", picture(), {"model": "classifier"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_bad_request_is_refused_with_its_field(shell: Shell, name: str) -> None:
    field, text, image, fields = BAD[name]
    error = await failure(segment(shell, image() if callable(image) else image, **fields))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(error, error_details_pb2.BadRequest()).field_violations
    assert violation.field == field
    assert text in str(error.details())
    assert reason(error) == "INVALID_REQUEST"
    assert not shell.front.payloads


@pytest.mark.parametrize(("field", "fields"), [("return_unary", {"return_unary": True}), ("queries", {"queries": [Pixel()]})])
async def test_attention_of_a_model_without_it_is_refused(make_shell: ShellFactory, field: str, fields: dict[str, Any]) -> None:
    shell = await make_shell(PassFront(segmenter(gives_attention=False), classifier()))
    error = await failure(segment(shell, picture(), **fields))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == field
    assert "needs attention, which segmenter does not give (variant fp32)" in str(error.details())


async def test_raw_map_that_no_client_could_receive_is_refused(make_shell: ShellFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "MAX_RAW_PIXELS", 480 * 360)
    shell = await make_shell(PassFront())
    assert len((await segment(shell, picture(), format=RAW)).map.raw) == 480 * 360
    error = await failure(segment(shell, picture(480, 361), format=RAW))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "format"
    assert "PNG or run lengths" in str(error.details())
    assert (await segment(shell, picture(480, 361), format=RUNS)).map.height == 361


async def test_largest_answers_fit_into_what_clients_receive(shell: Shell) -> None:
    """4 MiB unless a client has set another limit; the channel of this test has none set."""
    assert segmentation.MAX_RAW_PIXELS == 4_000_000
    queries = [Pixel(x=index, y=index) for index in range(16)]
    answer = await segment(shell, picture(2000, 2000), format=RAW, return_unary=True, queries=queries)
    assert len(answer.map.raw) == 4_000_000
    assert answer.ByteSize() < 4 * 2**20


async def test_too_many_runs_are_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "MAX_RUNS", 4 * 360)
    assert len((await segment(shell, picture(), format=RUNS)).map.runs.classes) == 4 * 360
    error = await failure(segment(shell, picture(480, 361), format=RUNS))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "format"


@pytest.mark.parametrize("name", ["classes", "confidence", "unary", "pairwise"])
@pytest.mark.parametrize("fault", ["absent", "short", "other axes"])
async def test_unusable_output_is_an_internal_error(shell: Shell, name: str, fault: str) -> None:
    def alter(outputs: dict[str, Any]) -> None:
        given = outputs.pop(name)
        if fault == "short":
            outputs[name] = type(given)(given.shape, given.data[:-1])
        elif fault == "other axes":
            outputs[name] = type(given)((*given.shape, 1), given.data)

    shell.front.alter = alter
    error = await failure(segment(shell, picture(), return_unary=True, queries=[Pixel()]))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INTERNAL, "EXECUTION_FAILED")
    assert f"({name})" in str(error.details())


async def test_class_without_a_label_is_an_internal_error(shell: Shell) -> None:
    def alter(outputs: dict[str, Any]) -> None:
        given = outputs["classes"]
        outputs["classes"] = type(given)(given.shape, given.data[:-1] + b"\x04")

    shell.front.alter = alter
    error = await failure(segment(shell, picture()))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INTERNAL, "EXECUTION_FAILED")


# --- Threads ---


class Pause:
    """Replaces the encoding of PNG files by a pause that only holds its own thread."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.num_begun = seconds, 0

    def __call__(self, made: ClassMap, palette: bytes) -> bytes:
        self.num_begun += 1
        time.sleep(self.seconds)
        return b"made"


async def longest_gap(work: Any) -> float:
    """The longest time for which the event loop did not run while something was awaited."""
    longest, task = 0.0, asyncio.ensure_future(work)
    last = time.monotonic()
    while not task.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    await task
    return longest


async def test_loop_runs_while_answers_are_made(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = Pause(0.6)
    monkeypatch.setattr(ClassMap, "png", lambda *args: pause(*args))
    assert await longest_gap(segment(shell, picture())) < 0.3
    assert pause.num_begun == 1


async def test_loop_that_makes_answers_itself_is_seen(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from attnserve_server.dataplane import plane

    class Inline(plane.Pending):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args[:5])

    monkeypatch.setattr(plane, "Pending", Inline)
    pause = Pause(0.6)
    monkeypatch.setattr(ClassMap, "png", lambda *args: pause(*args))
    assert await longest_gap(segment(shell, picture())) > 0.5


async def test_answers_are_made_where_new_images_are_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model has run for them: they wait for a thread, however many do."""
    monkeypatch.setattr("attnserve_server.dataplane.offload.MAX_PENDING", 1)
    pause = Pause(0.2)
    monkeypatch.setattr(ClassMap, "png", lambda *args: pause(*args))
    first = [asyncio.ensure_future(segment(shell, picture()))]
    while len(shell.front.payloads) < 1:
        await asyncio.sleep(0.002)
    while pause.num_begun < 1:
        await asyncio.sleep(0.002)
    for number in range(2, 6):  # each is prepared beside those whose answers are made
        first.append(asyncio.ensure_future(segment(shell, picture())))
        while len(shell.front.payloads) < number:
            await asyncio.sleep(0.002)
    assert all(answer.map.png == b"made" for answer in await asyncio.gather(*first))
