# SPDX-License-Identifier: Apache-2.0
"""Users of single-pass models against a fake server: what they send, and what the report counts."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from attnserve.v1 import generation_pb2, segmentation_pb2
from attnserve_loadtest import images
from tests.fakes.server import FakeServer
from tests.unit.loadtest.locust_runs import run_users

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


def load(server: FakeServer, results: Path, *options: str) -> dict[str, int]:
    """Runs Locust for four seconds; returns the number of answers by event."""
    code, events = run_users(server, results, *options)
    assert code == 0
    return {name: row["count"] for name, row in events.items()}


def test_segmentations_of_streets_with_maps(tmp_path: Path, server: FakeServer) -> None:
    counts = load(server, tmp_path, "--attention", "mean", "--segment-model", "s", "SegmentUser")
    assert 0 < counts["Segment"] <= len(server.segmentation.requests)
    for request in server.segmentation.requests:
        assert (request.model, request.return_unary, len(request.queries)) == ("s", True, 4)
        assert request.format == segmentation_pb2.CLASS_MAP_FORMAT_RUN_LENGTHS
        with Image.open(io.BytesIO(request.image)) as image:
            assert image.size in images.STREET_SIZES
            assert all(each.x < image.width and each.y < image.height for each in request.queries)


@pytest.mark.parametrize("attention", ["none", "mean"])
def test_a_folder_of_images_replaces_the_projects_own(attention: str, tmp_path: Path, server: FakeServer) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (30, 20), "red").save(folder / "red.png")
    options = ("--images", str(folder), "--attention", attention, "--classify-model", "c")
    counts = load(server, tmp_path, *options, "SegmentUser", "ClassifyUser")
    assert 0 < counts["ClassifyImage"] <= len(server.classification.requests)
    requests = [*server.segmentation.requests, *server.classification.requests]
    assert {request.image for request in requests} == {(folder / "red.png").read_bytes()}
    has_attention = attention == "mean"
    assert {request.return_unary for request in server.segmentation.requests} == {has_attention}
    assert {(each.model, each.return_attention) for each in server.classification.requests} == {("c", has_attention)}


@pytest.mark.parametrize("attention", ["none", "mean"])
def test_clips_are_sent_as_files(attention: str, tmp_path: Path, server: FakeServer) -> None:
    counts = load(server, tmp_path, "--attention", attention, "--video-model", "v", "ClassifyVideoUser")
    assert 0 < counts["ClassifyVideo"] <= len(server.classification.requests)
    for request in server.classification.requests:
        assert (request.model, request.video, len(request.queries)) == ("v", images.CLIP.read_bytes(), int(attention == "mean"))


def test_streets_have_the_sizes_of_video() -> None:
    found = images.streets()
    assert len(set(found)) == len(found) == 2 * len(images.STREET_SIZES)
    for data in found:
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.size in images.STREET_SIZES) == ("JPEG", True)


@pytest.mark.parametrize("attention", ["none", "mean"])
def test_generations_of_grids(attention: str, tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fakes.single_pass.KINDS", CIFAR10)
    counts = load(server, tmp_path, "--attention", attention, "--generate-model", "g", "GenerateUser")
    assert 0 < counts["GenerateImage"] <= len(server.generation.requests)
    requests = server.generation.requests
    assert {(each.model, each.form) for each in requests} == {("g", generation_pb2.GENERATION_FORM_GRID)}
    assert {each.count for each in requests} <= {1, 4, 16}
    assert {each.HasField("attention_at") for each in requests} == {attention == "mean"}
    assert not any(each.HasField("seed") for each in requests)
