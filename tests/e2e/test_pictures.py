# SPDX-License-Identifier: Apache-2.0
"""SegmentationService and ClassificationService over gRPC, with a worker: answers, batch mates, bad input, and 2,000 mutated files."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from attnserve.v1 import classification_pb2, classification_pb2_grpc, segmentation_pb2, segmentation_pb2_grpc
from tests.e2e.every_task import serve_every_task
from tests.e2e.serving import SENTENCES, Server, ask, details, eventually, texts
from tests.fuzzing import corpus, randomly_edited
from tests.photos import PHOTOS, variations

NUM_FILES, AT_ONCE = 2_000, 8
PHOTO = PHOTOS[0].read_bytes()
RAW, RUNS = segmentation_pb2.CLASS_MAP_FORMAT_RAW, segmentation_pb2.CLASS_MAP_FORMAT_RUN_LENGTHS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_every_task(tmp_path_factory.mktemp("pictures"), "--workers", "1") as running:
        yield running


def segment(channel: grpc.Channel, image: bytes = PHOTO, **fields: Any) -> Any:
    """The call, as a future."""
    stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
    return stub.Segment.future(segmentation_pb2.SegmentRequest(image=image, **fields), timeout=60)


def classify(channel: grpc.Channel, image: bytes = PHOTO, **fields: Any) -> Any:
    """The call, as a future."""
    stub = classification_pb2_grpc.ClassificationServiceStub(channel)
    return stub.ClassifyImage.future(classification_pb2.ClassifyImageRequest(image=image, **fields), timeout=60)


def content(answer: Any) -> bytes:
    answer.ClearField("timings")
    return answer.SerializeToString(deterministic=True)


def test_segmentation_covers_the_image(channel: grpc.Channel) -> None:
    raw, runs = (segment(channel, format=form).result() for form in (RAW, RUNS))
    classes = np.frombuffer(raw.map.raw, np.uint8).reshape(raw.map.height, raw.map.width)
    assert classes.shape == (400, 400)
    assert (np.repeat(runs.map.runs.classes, runs.map.runs.lengths) == classes.reshape(-1)).all()
    shares = np.bincount(classes.reshape(-1), minlength=len(raw.classes)) / classes.size
    assert [each.share for each in raw.classes] == shares.tolist()
    times = raw.timings
    assert 0 < times.run_seconds < times.total_seconds
    assert times.preparation_seconds + times.queue_seconds + times.run_seconds <= times.total_seconds
    assert times.batch_size >= 1


def test_attention_of_both_services(channel: grpc.Channel) -> None:
    pixel = segmentation_pb2.Pixel(x=399, y=0)
    attention = segment(channel, return_unary=True, queries=[pixel]).result().attention
    assert len(attention.unary) == attention.rows * attention.columns > 1
    (pairwise,) = attention.pairwise
    assert pairwise.query == pixel
    assert pairwise.cell == attention.columns - 1
    assert len(pairwise.weights) == len(attention.unary)
    blocks = classify(channel, return_attention=True).result().attention
    assert all(len(block.spatial) == block.rows * block.columns for block in blocks)
    assert any(len(block.spatial) for block in blocks)


def test_batch_mates_change_nothing(channel: grpc.Channel) -> None:
    images = variations(12)
    for call in (segment, classify):
        alone = [content(call(channel, image).result()) for image in images]
        together = [call(channel, image) for image in images]
        assert [content(each.result()) for each in together] == alone


BAD = {"image": {"image": b"text"}, "format": {"format": 9}, "queries": {"queries": [segmentation_pb2.Pixel()] * 17}}


@pytest.mark.parametrize("field", BAD)
def test_bad_segmentation_is_refused(server: Server, channel: grpc.Channel, field: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        segment(channel, **BAD[field]).result()
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(raised.value).fields == (field,)
    server.assert_unharmed()


def test_bad_classification_is_refused(channel: grpc.Channel) -> None:
    for field, fields in (("image", {"image": PHOTO[:900]}), ("top_k", {"top_k": 10_000})):
        with pytest.raises(grpc.RpcError) as raised:
            classify(channel, **fields).result()
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details(raised.value).fields == (field,)


@pytest.mark.load
@pytest.mark.timeout(600)
def test_mutated_files_are_answered_or_refused(server: Server, channel: grpc.Channel) -> None:
    images, waiting, ends = list(corpus("image").values()), deque[Any](), Counter[grpc.StatusCode]()
    for number in range(NUM_FILES):
        waiting.append((segment if number % 2 else classify)(channel, randomly_edited(images, number)))
        while len(waiting) >= AT_ONCE or (waiting and number == NUM_FILES - 1):
            ends[waiting.popleft().code()] += 1
    assert set(ends) == {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}, ends
    assert min(ends.values()) > NUM_FILES // 20
    assert sum(ends.values()) == NUM_FILES
    server.assert_unharmed()
    assert texts(ask(channel, SENTENCES[0]))
    eventually(lambda: server.scrape().total("attnserve_queue_length") == 0, "nothing waits")
    assert "Traceback" not in server.log.read_text(errors="replace")
