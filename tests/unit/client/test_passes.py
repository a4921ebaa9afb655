# SPDX-License-Identifier: Apache-2.0
"""Segmentation and classification by both clients: requests, answers, and answers that violate the protocol."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnserve.v1 import segmentation_pb2
from attnserve_client import AttnserveError, Classification, InvalidRequest, Segmentation
from attnserve_client.errors import ToolError
from tests.fakes.server import FakeServer
from tests.fakes.single_pass import class_map_of
from tests.unit.client.pictures import file_of

FORMATS = {"run_lengths": "RUN_LENGTHS", "png": "PNG", "raw": "RAW"}


@pytest.mark.parametrize("form", FORMATS)
def test_a_class_map_is_the_same_in_every_form(client: Any, server: FakeServer, form: str) -> None:
    answer = client.segment(file_of(size=(30, 21)), format=form)
    assert answer.class_map.dtype == np.uint8
    assert (answer.class_map == class_map_of(30, 21)).all()
    assert not answer.class_map.flags.writeable
    assert (answer.width, answer.height) == (30, 21)
    name = segmentation_pb2.ClassMapFormat.Name(server.segmentation.requests[0].format)
    assert name == f"CLASS_MAP_FORMAT_{FORMATS[form]}"


def test_segment(client: Any, server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "street.png"
    path.write_bytes(file_of())
    for image in (file_of(), path, str(path)):
        answer = client.segment(image, model="m", version="2", return_unary=True, queries=[(5, 3), (59, 39)], priority=1)
    assert (answer.model, answer.attention.rows, answer.attention.columns) == ("m", 10, 15)
    assert [each.name for each in answer.classes] == ["Sky", "Road", "Tree"]
    assert answer.classes[0].colour == (128, 128, 255)
    assert [each.name for each in answer.present] == ["Sky", "Road"]
    assert (answer.timings.queue_s, answer.timings.batch_size) == (0.002, 1)
    assert answer.attention.unary.shape == (10, 15)
    assert [each.cell for each in answer.attention.pairwise] == [(0, 1), (9, 14)]
    assert [each.query for each in answer.attention.pairwise] == [(5, 3), (59, 39)]
    assert [np.unravel_index(each.weights.argmax(), (10, 15)) for each in answer.attention.pairwise] == [(0, 1), (9, 14)]
    for request in server.segmentation.requests:
        assert (request.image, request.model, request.version, request.priority) == (file_of(), "m", "2", 1)
        assert request.format == segmentation_pb2.CLASS_MAP_FORMAT_RUN_LENGTHS
    assert client.segment(file_of()).attention is None


def test_colours_and_overlay(client: Any) -> None:
    answer = client.segment(file_of(size=(6, 4)))
    assert answer.coloured()[0, 0].tolist() == [128, 128, 255]
    assert answer.coloured()[3, 5].tolist() == [128, 64, 128]
    white = np.full((4, 6, 3), 255, np.uint8)
    assert answer.overlay(white, 0.0).min() == 255
    assert (answer.overlay(white, 1.0) == answer.coloured()).all()
    assert answer.overlay(white, 0.5)[3, 5].tolist() == [192, 160, 192]
    with pytest.raises(ValueError, match="has the shape"):
        answer.overlay(white[:2])


@pytest.mark.parametrize(
    ("keywords", "field"),
    [
        ({"format": "jpeg"}, "format"),
        ({"queries": [(1, 2, 3)]}, "queries"),
        ({"queries": [(-1, 2)]}, "queries"),
        ({"queries": 7}, "queries"),
        ({"priority": "high"}, "priority"),
        ({"beam_size": 3}, "beam_size"),
    ],
)
def test_what_cannot_be_sent_names_its_field(client: Any, keywords: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.segment(file_of(), **keywords)
    assert caught.value.field == field


def test_png_without_pillow_is_refused_before_the_call(client: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ToolError, match=r"attnserve\[cli\]"):
        client.segment(b"x", format="png")
    assert not server.segmentation.requests


def test_classify(client: Any, server: FakeServer) -> None:
    answer = client.classify_image(file_of("lime"), model="m", top_k=2, return_attention=True, priority=-1)
    assert (answer.model, answer.best.name, answer.best.index, len(answer.classes)) == ("m", "dog", 1, 2)
    assert answer.best.probability == pytest.approx(0.7)
    first, second = answer.attention
    assert (first.block, first.spatial.tolist()[1]) == ("stage1", pytest.approx([0.3, 0.4]))
    assert second.spatial is None
    assert second.channels.tolist() == [1, 0, 0.5]
    request = server.classification.requests[0]
    assert (request.top_k, request.return_attention, request.priority) == (2, True, -1)
    assert client.classify_image(file_of("lime")).attention == ()


def test_many(client: Any, tmp_path: Path) -> None:
    images = [file_of("red"), b"bad", file_of("lime"), tmp_path / "gone.png"]
    found = list(client.classify_many(images, max_in_flight=2))
    assert [each.best.name if isinstance(each, Classification) else each.field for each in found] == [
        "cat",
        "image",
        "dog",
        "image",
    ]
    sizes = list(client.segment_many([file_of(size=(9, 8)), b"bad", file_of(size=(5, 4))], max_in_flight=2))
    assert [each.class_map.shape if isinstance(each, Segmentation) else each.field for each in sizes] == [(8, 9), "image", (4, 5)]


def _set(path: str, value: Any) -> Callable[[Any], None]:
    *parents, name = path.split(".")

    def alter(response: Any) -> None:
        for parent in parents:
            response = getattr(response, parent)
        setattr(response, name, value)

    return alter


def _pop(path: str) -> Callable[[Any], None]:
    def alter(response: Any) -> None:
        for name in path.split("."):
            response = getattr(response, name)
        response.pop()

    return alter


@pytest.mark.parametrize(
    ("form", "alter", "text"),
    [
        ("raw", _set("map.width", 7), "24 pixels for a class map of 7 × 4"),
        ("run_lengths", _set("map.width", 7), "runs that do not make 28 pixels"),
        ("run_lengths", _pop("map.runs.classes"), "runs that do not make 24 pixels"),
        ("png", _set("map.height", 5), "not an indexed PNG file"),
        ("png", _set("map.png", b"text"), "not an indexed PNG file"),
        ("png", _set("map.png", file_of(size=(6, 4))), "mode RGB"),
        ("raw", _set("map.raw", bytes([9] * 24)), "classes that the answer does not list"),
        ("raw", _pop("classes"), None),
        ("raw", lambda response: response.map.ClearField("form"), "unknown form"),
        ("raw", _pop("attention.unary"), "1 weights for an attention of"),
        ("raw", _set("attention.columns", 0), "has no cells"),
    ],
)
def test_a_segmentation_that_violates_the_protocol(
    client: Any, server: FakeServer, form: str, alter: Callable[[Any], None], text: str | None
) -> None:
    server.segmentation.alter = alter
    if text is None:  # the class that is missing has no pixels
        assert len(client.segment(file_of(size=(6, 4)), format=form).classes) == 2
        return
    with pytest.raises(AttnserveError, match=text):
        client.segment(file_of(size=(6, 4)), format=form, return_unary=True)


@pytest.mark.parametrize(
    ("alter", "text"),
    [
        (lambda response: response.ClearField("classes"), "no class"),
        (lambda response: _set("rows", 3)(response.attention[0]), "4 weights"),
    ],
)
def test_a_classification_that_violates_the_protocol(
    client: Any, server: FakeServer, alter: Callable[[Any], None], text: str
) -> None:
    server.classification.alter = alter
    with pytest.raises(AttnserveError, match=text):
        client.classify_image(file_of(), return_attention=True)
