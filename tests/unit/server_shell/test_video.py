# SPDX-License-Identifier: Apache-2.0
"""ClassificationService.ClassifyVideo on a real port, with a model that always gives the same probabilities."""

from __future__ import annotations

import io
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from PIL import Image

from attnserve.v1 import classification_pb2, classification_pb2_grpc
from tests import clips
from tests.clips import clip_file, moving, needs_decoder, png
from tests.fakes.pass_models import CLIP_CELLS, CLIP_SIDE, PassFront, classifier, numbers, watcher
from tests.unit.server_shell.conftest import Shell, ShellFactory
from tests.unit.server_shell.test_rpc import detail, failure, reason

FRAMES = [png(frame) for frame in moving(20)]


@pytest.fixture
async def shell(make_shell: ShellFactory) -> AsyncIterator[Shell]:
    return await make_shell(PassFront(classifier(), watcher()))


async def classify(shell: Shell, *frames: bytes, **fields: Any) -> classification_pb2.ClassifyVideoResponse:
    stub: Any = classification_pb2_grpc.ClassificationServiceStub(shell.channel)
    return await stub.ClassifyVideo(classification_pb2.ClassifyVideoRequest(frames=frames, **fields))


def clip_of(shell: Shell) -> np.ndarray:
    (payload,) = shell.front.payloads
    clip = payload.inputs["clip"]
    return np.frombuffer(clip.data, np.uint8).reshape(clip.shape)


async def test_sampled_frames_are_named_and_most_probable_classes_come_first(shell: Shell) -> None:
    answer = await classify(shell, *FRAMES)
    assert [(each.index, each.name) for each in answer.classes] == [(1, "slow"), (2, "fast"), (0, "still")]
    assert [frame.index for frame in answer.frames] == [0, 3, 5, 8, 11, 14, 16, 19]
    assert [frame.time for frame in answer.frames] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert (answer.clip_frames, answer.model, answer.version) == (20, "watcher", "1")
    assert not answer.HasField("attention")
    assert not any(frame.picture for frame in answer.frames)
    assert 0 < answer.timings.preparation_seconds < answer.timings.total_seconds
    clip = clip_of(shell)
    assert clip.shape == (8, CLIP_SIDE, CLIP_SIDE, 3)
    np.testing.assert_allclose(clip[..., 0].mean((1, 2)), [4 * frame.index for frame in answer.frames], atol=1)
    assert set(shell.front.payloads[0].inputs) == {"clip"}


@needs_decoder
async def test_a_file_gives_what_its_frames_give(shell: Shell) -> None:
    answer = await classify(shell, video=clip_file(), top_k=1)
    assert [each.name for each in answer.classes] == ["slow"]
    assert (answer.clip_frames, [frame.index for frame in answer.frames]) == (20, [0, 3, 5, 8, 11, 14, 16, 19])
    np.testing.assert_allclose([frame.seconds for frame in answer.frames], [0, 0.3, 0.5, 0.8, 1.1, 1.4, 1.6, 1.9], atol=1e-6)
    np.testing.assert_allclose(clip_of(shell)[..., 0].mean((1, 2)), [4 * frame.index for frame in answer.frames], atol=12)


async def test_pictures_show_the_frames_as_the_model_reads_them(shell: Shell) -> None:
    answer = await classify(shell, *FRAMES[:2], return_pictures=True)
    assert [frame.index for frame in answer.frames] == [0, 0, 0, 0, 1, 1, 1, 1]
    for frame, pixels in zip(answer.frames, clip_of(shell), strict=True):
        with Image.open(io.BytesIO(frame.picture)) as picture:
            assert (picture.format, picture.size) == ("JPEG", (CLIP_SIDE, CLIP_SIDE))
            assert abs(np.asarray(picture).astype(float).mean() - pixels.mean()) < 3


async def test_attention_of_positions(shell: Shell) -> None:
    positions = [(0, 0.0, 0.0), (7, 1.0, 1.0), (2, 0.5, 0.34)]
    queries = [classification_pb2.ClipPosition(frame=frame, x=x, y=y) for frame, x, y in positions]
    attention = (await classify(shell, *FRAMES, queries=queries)).attention
    assert (attention.times, attention.rows, attention.columns) == CLIP_CELLS
    assert [(each.query.frame, each.query.x, each.query.y) for each in attention.maps] == positions
    assert [each.cell for each in attention.maps] == [0, 23, 6]
    for each in attention.maps:
        expected = np.zeros(math.prod(CLIP_CELLS))
        expected[0] += 0.25
        expected[each.cell] += 0.75
        np.testing.assert_allclose(each.weights, expected)
    (payload,) = shell.front.payloads
    assert payload.wants_attention
    assert numbers(payload.inputs["query"]) == [0, 23, 6, *[0] * 13]


def position(frame: int = 0, x: float = 0.0, y: float = 0.0) -> dict[str, Any]:
    return {"queries": [classification_pb2.ClipPosition(frame=1), classification_pb2.ClipPosition(frame=frame, x=x, y=y)]}


BAD: dict[str, tuple[str, str, list[bytes], dict[str, Any]]] = {
    "zero frames": ("video", "must not be empty; or send frames", [], {}),
    "an empty file": ("video", "must not be empty", [], {"video": b""}),
    "a text": ("video", "not an MP4, WebM or GIF file", [], {"video": b"I am a film, I promise."}),
    "both": ("frames", "exclude each other", FRAMES, {"video": b"GIF89a;"}),
    "an empty frame": ("frames[0]", "must not be empty", [b""], {}),
    "a broken frame": ("frames[3]", "cannot be decoded", [*FRAMES[:3], FRAMES[3][:90], *FRAMES[4:]], {}),
    "too many frames": ("frames", "must be at most 3,000; there are 3,001", [b"x"] * 3001, {}),
    "x is not a number": ("queries[1].x", "must be from 0 to 1; it is nan", FRAMES, position(x=math.nan)),
    "y is infinite": ("queries[1].y", "it is inf", FRAMES, position(y=math.inf)),
    "x is negative": ("queries[1].x", "it is -0.1", FRAMES, position(x=-0.1)),
    "y is too large": ("queries[1].y", "it is 1.01", FRAMES, position(y=1.01)),
    "no such frame": ("queries[1].frame", "must be below 8", FRAMES, position(frame=8)),
    "far too late": ("queries[1].frame", "it is 4294967295", FRAMES, position(frame=2**32 - 1)),
    "many positions": ("queries", "must be at most 16; there are 17", FRAMES, {"queries": [classification_pb2.ClipPosition()] * 17}),
    "too many classes": ("top_k", "must be at most 3, the number of classes of watcher; it is 4", FRAMES, {"top_k": 4}),
    "priority": ("priority", "must be from -2 to 2", FRAMES, {"priority": -3}),
    "another task": ("model", "the model classifier does not classify video", FRAMES, {"model": "classifier"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_bad_request_is_refused_with_its_field(shell: Shell, name: str) -> None:
    field, text, frames, fields = BAD[name]
    error = await failure(classify(shell, *frames, **fields))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(error, error_details_pb2.BadRequest()).field_violations
    assert violation.field == field
    assert text in str(error.details())
    assert reason(error) == "INVALID_REQUEST"
    assert not shell.front.payloads


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "cut off": (lambda: clip_file()[:-700], "cut off"),
    "a million frames": (clips.of_a_million_frames, "must have at most 3,000 frames; its header says 1,000,000"),
    "ten hours": (clips.of_ten_hours, "must last at most 120 seconds; its header says 36000"),
}


@needs_decoder
@pytest.mark.parametrize("name", FILES)
async def test_bad_file_is_refused_and_the_next_one_is_answered(shell: Shell, name: str) -> None:
    made, text = FILES[name]
    error = await failure(classify(shell, video=made()))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in str(error.details())
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "video"
    assert (await classify(shell, video=clip_file())).clip_frames == 20


async def test_file_without_a_decoder_is_a_failed_precondition(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = await failure(classify(shell, video=b"GIF89a;"))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert (reason(error), 'pip install "attnserve[video]"' in str(error.details())) == ("EXTRA_MISSING", True)
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "video"
    assert len((await classify(shell, *FRAMES)).frames) == 8, "frames need none"


async def test_attention_of_a_model_without_it_is_refused(make_shell: ShellFactory) -> None:
    shell = await make_shell(PassFront(watcher(gives_attention=False)))
    error = await failure(classify(shell, *FRAMES, **position()))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "queries"
    assert (await classify(shell, *FRAMES)).clip_frames == 20


@pytest.mark.parametrize("name", ["probabilities", "pairwise"])
@pytest.mark.parametrize("fault", ["absent", "cut"])
async def test_unusable_output_is_an_internal_error(shell: Shell, name: str, fault: str) -> None:
    def alter(outputs: dict[str, Any]) -> None:
        given = outputs.pop(name)
        if fault == "cut":
            outputs[name] = type(given)((*given.shape[:-1], given.shape[-1] - 1), given.data)

    shell.front.alter = alter
    error = await failure(classify(shell, *FRAMES, **position()))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INTERNAL, "EXECUTION_FAILED")
