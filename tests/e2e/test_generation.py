# SPDX-License-Identifier: Apache-2.0
"""GenerationService over gRPC, with a worker and the shipped model or a made-up one: batches, seeds, attention, and bad input."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from attnserve.v1 import generation_pb2, generation_pb2_grpc
from tests.e2e.every_task import serve_every_task
from tests.e2e.serving import SENTENCES, Server, ask, details, texts
from tests.fuzzing import corpus, randomly_edited

NUM_MUTATED = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_every_task(tmp_path_factory.mktemp("generation"), "--workers", "1") as running:
        yield running


def generate(channel: grpc.Channel, class_name: str = "ship", **fields: Any) -> Any:
    """The call, as a future."""
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    return stub.GenerateImage.future(generation_pb2.GenerateImageRequest(class_name=class_name, **fields), timeout=60)


def pixels(answer: Any) -> np.ndarray:
    """(N, H, W, 3), as signed numbers."""
    return np.stack([np.asarray(Image.open(io.BytesIO(each))) for each in answer.images]).astype(int)


def test_images_of_a_call_share_batches(channel: grpc.Channel) -> None:
    answer = generate(channel, count=16, seed=1).result()
    assert len(answer.images) == 16
    assert answer.timings.batch_size > 1
    assert 0 < answer.timings.run_seconds < answer.timings.total_seconds
    assert len({each.tobytes() for each in pixels(answer)}) > 1


def test_same_seed_gives_the_same_images_whatever_else_is_asked(channel: grpc.Channel) -> None:
    alone = {seed: pixels(generate(channel, count=1 + seed % 5, seed=seed).result()) for seed in range(12)}
    calls = {seed: generate(channel, count=1 + seed % 5, seed=seed) for seed in range(12)}
    for seed, call in calls.items():
        found = pixels(call.result())
        assert found.shape == alone[seed].shape
        assert np.abs(found - alone[seed]).max() <= 1  # another batch may change the rounding
        assert (found != alone[seed]).mean() < 0.001


def test_classes_and_seeds_give_other_images(channel: grpc.Channel) -> None:
    ship, other, airplane = (
        generate(channel, name, seed=seed).result() for name, seed in (("ship", 1), ("ship", 2), ("airplane", 1))
    )
    assert len({each.images[0] for each in (ship, other, airplane)}) == 3


def test_attention_is_a_distribution_over_the_cells(channel: grpc.Channel) -> None:
    attention = generate(channel, count=5, attention_at={"x": 9, "y": 5}).result().attention
    assert len(attention.maps) == 5
    assert attention.cell < attention.rows * attention.columns
    for each in attention.maps:
        assert len(each.weights) == attention.rows * attention.columns
        assert min(each.weights) >= 0
        assert sum(each.weights) == pytest.approx(1, abs=1e-4)


def test_attention_changes_no_image(channel: grpc.Channel) -> None:
    plain, attended = (generate(channel, count=4, seed=3, **fields).result() for fields in ({}, {"attention_at": {}}))
    assert np.abs(pixels(plain) - pixels(attended)).max() <= 1


def test_requests_and_images_are_counted(server: Server, channel: grpc.Channel) -> None:
    before = server.scrape()
    generate(channel, count=7, seed=1).result()
    after = server.scrape()
    labels = {"method": "GenerateImage", "code": "OK"}
    assert after.total("attnserve_requests_total", **labels) - before.total("attnserve_requests_total", **labels) == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"count": 0}, "count"), ({"count": 10_000}, "count"), ({"class_name": "cow"}, "class_name"), ({"form": 9}, "form")],
)
def test_bad_request_names_its_field(server: Server, channel: grpc.Channel, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        generate(channel, **{"class_name": "ship", **fields}).result()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(caught.value).fields == (field,)
    server.assert_unharmed()


def test_mutated_requests_get_a_status_and_harm_nothing(server: Server, channel: grpc.Channel) -> None:
    kept = [data for name, data in corpus("wire").items() if ".GenerateImage." in name]
    method = channel.unary_unary("/attnserve.v1.GenerationService/GenerateImage")
    codes = set[Any]()
    for number in range(NUM_MUTATED):
        try:
            method(randomly_edited(kept, number), timeout=60)
            codes.add(grpc.StatusCode.OK)
        except grpc.RpcError as error:
            codes.add(error.code())
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
    server.assert_unharmed()
    assert texts(ask(channel, SENTENCES[0]))
