# SPDX-License-Identifier: Apache-2.0
"""ClassificationService on a real port, with a model that always gives the same probabilities."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from PIL import Image

from attnserve.v1 import classification_pb2, classification_pb2_grpc
from tests.fakes.pass_models import CLASSES, PassFront, classifier, image_of, segmenter
from tests.photos import PHOTOS, encoded
from tests.unit.server_shell.conftest import Shell, ShellFactory
from tests.unit.server_shell.test_rpc import detail, failure, reason
from tests.unit.server_shell.test_segmentation import frames

PHOTO = PHOTOS[0].read_bytes()


@pytest.fixture
async def shell(make_shell: ShellFactory) -> AsyncIterator[Shell]:
    return await make_shell(PassFront())


async def classify(shell: Shell, image: bytes = PHOTO, **fields: Any) -> classification_pb2.ClassifyImageResponse:
    stub: Any = classification_pb2_grpc.ClassificationServiceStub(shell.channel)
    return await stub.ClassifyImage(classification_pb2.ClassifyImageRequest(image=image, **fields))


async def test_most_probable_classes_come_first(shell: Shell) -> None:
    answer = await classify(shell, top_k=10)
    assert [each.index for each in answer.classes] == [3, 5, 7, 8, 6, 4, 1, 0, 2, 9], "of equal ones the first"
    assert [each.name for each in answer.classes] == [CLASSES[each.index] for each in answer.classes]
    assert sum(each.probability for each in answer.classes) == pytest.approx(1)
    assert (answer.model, answer.version, list(answer.attention)) == ("classifier", "1", [])
    assert 0 < answer.timings.preparation_seconds < answer.timings.total_seconds
    assert (answer.timings.run_seconds, answer.timings.batch_size) == (0.25, 2)


@pytest.mark.parametrize(("top_k", "count"), [(0, 5), (1, 1), (7, 7)])
async def test_number_of_classes(shell: Shell, top_k: int, count: int) -> None:
    assert [each.index for each in (await classify(shell, top_k=top_k)).classes] == [3, 5, 7, 8, 6, 4, 1][:count]


async def test_image_is_stretched_to_the_size_of_the_model(shell: Shell) -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (150, 0, 300, 100))
    await classify(shell, encoded(image, "PNG"))
    (payload,) = shell.front.payloads
    pixels = image_of(payload)
    assert pixels.shape == (32, 32, 3)
    assert (pixels[:, :14] == [255, 0, 0]).all()
    assert (pixels[:, 18:] == [0, 0, 255]).all()
    assert (set(payload.inputs), payload.wants_attention) == ({"image"}, False)


async def test_attention_of_each_block(shell: Shell) -> None:
    first, second = (await classify(shell, return_attention=True)).attention
    assert (first.block, second.block) == ("block 1", "block 2")
    np.testing.assert_allclose(first.channels, np.linspace(0, 1, 8), atol=1e-6)
    assert (first.rows, first.columns) == (3, 4)
    np.testing.assert_allclose(first.spatial, np.linspace(0, 1, 12), atol=1e-6)
    assert (len(second.channels), second.rows, second.columns, list(second.spatial)) == (0, 2, 2, [0.5] * 4)
    assert shell.front.payloads[0].wants_attention


BAD: dict[str, tuple[str, str, Any, dict[str, Any]]] = {
    "empty": ("image", "must not be empty", b"", {}),
    "text": ("image", "not a JPEG, PNG or WebP", b"I am a photo, I promise.", {}),
    "truncated": ("image", "cannot be decoded", PHOTO[:2000], {}),
    "bomb": ("image", "pixels", lambda: encoded(Image.new("1", (20_000, 20_000), 1), "PNG"), {}),
    "one pixel": ("image", "at least 16 pixels", lambda: encoded(Image.new("RGB", (1, 1)), "PNG"), {}),
    "a line": ("image", "at least 16 pixels", lambda: encoded(Image.new("RGB", (20_000, 1)), "PNG"), {}),
    "animated": ("image", "animation", frames, {}),
    "too many classes": ("top_k", "must be at most 10, the number of classes of classifier; it is 11", PHOTO, {"top_k": 11}),
    "far too many classes": ("top_k", "it is 4294967295", PHOTO, {"top_k": 2**32 - 1}),
    "priority": ("priority", "must be from -2 to 2", PHOTO, {"priority": -3}),
    "another task": ("model", "the model segmenter does not classify", PHOTO, {"model": "segmenter"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_bad_request_is_refused_with_its_field(shell: Shell, name: str) -> None:
    field, text, image, fields = BAD[name]
    error = await failure(classify(shell, image() if callable(image) else image, **fields))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(error, error_details_pb2.BadRequest()).field_violations
    assert violation.field == field
    assert text in str(error.details())
    assert reason(error) == "INVALID_REQUEST"
    assert not shell.front.payloads


async def test_attention_of_a_model_without_it_is_refused(make_shell: ShellFactory) -> None:
    shell = await make_shell(PassFront(segmenter(), classifier(gives_attention=False)))
    error = await failure(classify(shell, return_attention=True))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "return_attention"
    assert "needs attention, which classifier does not give (variant fp32)" in str(error.details())


@pytest.mark.parametrize("name", ["probabilities", "channel_1", "spatial_2"])
@pytest.mark.parametrize("fault", ["absent", "cut", "other axes"])
async def test_unusable_output_is_an_internal_error(shell: Shell, name: str, fault: str) -> None:
    def alter(outputs: dict[str, Any]) -> None:
        given = outputs.pop(name)
        if fault == "cut":
            outputs[name] = type(given)(given.shape, given.data[:-4])
        elif fault == "other axes":
            outputs[name] = type(given)((*given.shape, 1), given.data)

    shell.front.alter = alter
    error = await failure(classify(shell, return_attention=True))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INTERNAL, "EXECUTION_FAILED")
    assert f"({name})" in str(error.details())


async def test_fewer_probabilities_than_labels_are_an_internal_error(shell: Shell) -> None:
    def alter(outputs: dict[str, Any]) -> None:
        given = outputs["probabilities"]
        outputs["probabilities"] = type(given)((9,), given.data[:-4])

    shell.front.alter = alter
    assert reason(await failure(classify(shell))) == "EXECUTION_FAILED"
