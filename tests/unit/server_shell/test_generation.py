# SPDX-License-Identifier: Apache-2.0
"""GenerationService on a real port, with a model whose pixels are its inputs."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from PIL import Image

from attnserve.v1 import generation_pb2, generation_pb2_grpc
from attnserve_server.errors import Overloaded
from attnserve_server.passes import PassPayload
from attnserve_server.tasks.latent import latent_vector
from tests.fakes.pass_models import LATENT, PassFront, classifier, generated, generator
from tests.unit.server_shell.conftest import Shell, ShellFactory, until
from tests.unit.server_shell.test_rpc import detail, failure, reason

GRID = generation_pb2.GENERATION_FORM_GRID


@pytest.fixture
async def shell(make_shell: ShellFactory) -> AsyncIterator[Shell]:
    return await make_shell(PassFront())


async def generate(shell: Shell, class_name: str = "frog", **fields: Any) -> generation_pb2.GenerateImageResponse:
    stub: Any = generation_pb2_grpc.GenerationServiceStub(shell.channel)
    return await stub.GenerateImage(generation_pb2.GenerateImageRequest(class_name=class_name, **fields))


def pixels(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def latents(payloads: list[PassPayload]) -> list[np.ndarray]:
    return [np.frombuffer(each.inputs["latent"].data, np.float32) for each in payloads]


async def test_each_image_is_a_payload_with_its_own_latent_vector(shell: Shell) -> None:
    answer = await generate(shell, count=3, seed=7)
    assert (answer.count, answer.seed, answer.class_index, answer.width, answer.height) == (3, 7, 6, 8, 6)
    assert (answer.model, answer.version, answer.columns, answer.HasField("attention")) == ("generator", "1", 0, False)
    assert (answer.timings.run_seconds, answer.timings.batch_size) == (0.25, 2)
    payloads = shell.front.payloads
    assert [set(each.inputs) for each in payloads] == [{"latent", "label"}] * 3
    for index, (payload, file) in enumerate(zip(payloads, answer.images, strict=True)):
        np.testing.assert_array_equal(latents([payload])[0], latent_vector(7, index, LATENT))
        np.testing.assert_array_equal(pixels(file).reshape(-1), np.frombuffer(generated(payload)["pixels"].data, np.uint8))
    assert len({each.tobytes() for each in latents(payloads)}) == 3


async def test_same_seed_gives_the_same_images_whatever_the_count(shell: Shell) -> None:
    few, many = await generate(shell, count=2, seed=2**64 - 1), await generate(shell, count=5, seed=2**64 - 1)
    assert list(few.images) == list(many.images)[:2]
    assert list((await generate(shell, count=2, seed=0)).images) != list(few.images)


async def test_drawn_seed_is_named_and_repeats_the_images(shell: Shell) -> None:
    first, second = await generate(shell), await generate(shell)
    assert first.seed != second.seed
    assert (await generate(shell, seed=first.seed)).images == first.images
    assert (first.count, len(first.images)) == (1, 1)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 2, 2), (16, 4, 4), (17, 5, 4), (64, 8, 8)])
async def test_grid_holds_the_images_row_by_row(shell: Shell, count: int, columns: int, rows: int) -> None:
    whole, single = await generate(shell, count=count, seed=1, form=GRID), await generate(shell, count=count, seed=1)
    (grid,) = whole.images
    assert whole.columns == columns
    found = pixels(grid).reshape(rows, 6, columns, 8, 3).swapaxes(1, 2).reshape(-1, 6, 8, 3)
    np.testing.assert_array_equal(found[:count], [pixels(each) for each in single.images])
    assert (found[count:] == 255).all()


async def test_attention_of_the_cell_of_a_pixel_in_each_image(shell: Shell) -> None:
    answer = await generate(shell, count=2, attention_at={"x": 5, "y": 4})
    attention = answer.attention
    assert (attention.rows, attention.columns, attention.cell) == (3, 4, 2 * 4 + 2)
    assert [list(each.weights) for each in attention.maps] == [[0.25] + [0] * 9 + [0.75, 0]] * 2
    assert all(each.wants_attention for each in shell.front.payloads)


BAD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "no class": ("class_name", "must be one of airplane, automobile, bird,", {"class_name": ""}),
    "unknown class": ("class_name", "must be one of airplane, automobile, bird,", {"class_name": "Frog"}),
    "no image": ("count", "must be from 1 to 64; it is 0", {"count": 0}),
    "65 images": ("count", "must be from 1 to 64; it is 65", {"count": 65}),
    "10,000 images": ("count", "it is 10000", {"count": 10_000}),
    "form": ("form", "form has the unknown value 3", {"form": 3}),
    "negative form": ("form", "form has the unknown value -1", {"form": -1}),
    "right of the image": ("attention_at.x", "must be below 8: the images have 8 x 6; it is 8", {"attention_at": {"x": 8}}),
    "below the image": ("attention_at.y", "must be below 6", {"attention_at": {"x": 7, "y": 2**32 - 1}}),
    "priority": ("priority", "must be from -2 to 2", {"priority": -3}),
    "another task": ("model", "the model classifier does not generate", {"model": "classifier"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_bad_request_is_refused_with_its_field(shell: Shell, name: str) -> None:
    field, text, fields = BAD[name]
    error = await failure(generate(shell, **fields))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(error, error_details_pb2.BadRequest()).field_violations
    assert violation.field == field
    assert text in str(error.details())
    assert reason(error) == "INVALID_REQUEST"
    assert not shell.front.payloads


async def test_negative_count_on_the_wire_is_refused_with_its_field(shell: Shell) -> None:
    minus_one = b"\x0a\x04frog" + b"\x20" + b"\xff" * 9 + b"\x01"
    method = shell.channel.unary_unary("/attnserve.v1.GenerationService/GenerateImage")
    error = await failure(method(minus_one))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert "count must be from 1 to 64; it is 4294967295" in str(error.details())


async def test_class_name_of_the_client_is_not_in_the_message(shell: Shell) -> None:
    assert "secret" not in str((await failure(generate(shell, "secret"))).details())


async def test_attention_of_a_model_without_it_is_refused(make_shell: ShellFactory) -> None:
    shell = await make_shell(PassFront(classifier(), generator(gives_attention=False)))
    error = await failure(generate(shell, attention_at={}))
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "attention_at"
    assert "needs attention, which generator does not give (variant fp32)" in str(error.details())


@pytest.mark.parametrize("name", ["pixels", "attention"])
@pytest.mark.parametrize("fault", ["absent", "cut", "other axes", "other size"])
async def test_unusable_output_of_one_image_is_an_internal_error(shell: Shell, name: str, fault: str) -> None:
    seen = 0

    def alter(outputs: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        if seen != 2:
            return
        given = outputs.pop(name)
        if fault == "cut":
            outputs[name] = type(given)(given.shape, given.data[:-4])
        elif fault == "other axes":
            outputs[name] = type(given)((*given.shape, 1), given.data)
        elif fault == "other size":
            outputs[name] = type(given)((*given.shape[:-1], given.shape[-1] * 2), given.data * 2)

    shell.front.alter = alter
    error = await failure(generate(shell, count=3, attention_at={}))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INTERNAL, "EXECUTION_FAILED")
    assert f"({name})" in str(error.details())


async def test_call_is_refused_as_a_whole_if_the_queue_takes_only_some_images(make_shell: ShellFactory) -> None:
    front = PassFront()
    cancelled: list[str] = []
    accept = front.submit

    def submit(*args: Any) -> Any:
        if len(front.payloads) == 3:
            raise Overloaded("the queue is full", retry_after_s=1)
        ticket = accept(*args)
        ticket.cancel = cancelled.append
        return ticket

    front.submit = submit  # type: ignore[method-assign]
    shell = await make_shell(front)
    error = await failure(generate(shell, count=5))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await until(lambda: len(cancelled) == 3)
