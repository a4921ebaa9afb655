# SPDX-License-Identifier: Apache-2.0
"""Scores of classes, the data sets that they are computed on, and the commands that evaluate through a server."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnserve.v1 import manifest_pb2
from attnserve_client.cli import main
from attnserve_client.confusion import Confusion
from attnserve_export.training.segmentation import scores
from tests.fakes.server import FakeServer, model_of
from tests.labelled import write_camvid, write_cifar10
from tests.unit.client.pictures import file_of


def test_scores_of_a_small_example() -> None:
    matrix = Confusion(4)
    matrix.add(np.array([[0, 0, 0, 1], [1, 2, 9, 9]]), np.array([[0, 0, 1, 1], [0, 2, 0, 1]]), ignored=[9])
    assert matrix.counts[:3, :3].tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert matrix.accuracy() == pytest.approx(100 * 4 / 6)
    assert matrix.ious()[:3].tolist() == pytest.approx([100 * 2 / 4, 100 * 1 / 3, 100])
    assert math.isnan(matrix.ious()[3])  # neither present nor predicted
    assert matrix.mean_iou() == pytest.approx((50 + 100 / 3 + 100) / 3)
    assert matrix.recalls()[:3].tolist() == pytest.approx([200 / 3, 50, 100])
    assert math.isnan(matrix.recalls()[3])


def test_scores_without_pairs_are_not_numbers() -> None:
    assert math.isnan(Confusion(2).accuracy())
    assert math.isnan(Confusion(2).mean_iou())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="labels of shape"):
        Confusion(2).add(np.zeros((2, 2), np.int64), np.zeros(4, np.int64))
    with pytest.raises(ValueError, match="the label 2 is not one of 2 classes"):
        Confusion(2).add(np.array([2]), np.array([0]))
    with pytest.raises(ValueError, match="the answer 5 is not one of 2 classes"):
        Confusion(2).add(np.array([1]), np.array([5]))


def test_scores_are_those_of_the_training() -> None:
    rng = np.random.default_rng(5)
    matrix, matrices = Confusion(scores.VOID), []
    for _ in range(3):
        wanted = rng.integers(0, scores.VOID + 1, (12, 16)).astype(np.uint8)
        found = np.where(rng.random((12, 16)) < 0.6, np.minimum(wanted, scores.VOID - 1), rng.integers(0, 7, (12, 16))).astype(
            np.uint8
        )
        matrix.add(wanted, found, [scores.VOID])
        matrices.append(scores.confusion(found, wanted))
    assert (matrix.counts == np.sum(matrices, 0)).all()
    assert matrix.mean_iou() == pytest.approx(scores.mean_iou(np.stack(matrices)))
    assert matrix.ious() == pytest.approx(scores.class_ious(matrix.counts), nan_ok=True)


def labels_of(values: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


LABELS = np.array([[0, 0], [1, 0], [1, 1], [1, 11]])  # the answer: two rows of 0, two of 1


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> Path:
    """A folder of data sets: two frames of CamVid, three images of CIFAR-10."""
    monkeypatch.setenv("ATTNSERVE_ADDRESS", server.address)
    monkeypatch.delenv("ATTNSERVE_DATA", raising=False)
    server.models.models = [
        model_of("fake-segments", manifest_pb2.TASK_SEGMENTATION),
        model_of("fake-classes", manifest_pb2.TASK_CLASSIFICATION),
    ]
    write_camvid(tmp_path, {name: (file_of(size=(2, 4)), labels_of(LABELS)) for name in ("b", "a")})
    write_cifar10(tmp_path, [file_of(colour, (2, 2)) for colour in ("red", "lime", "lime")], [0, 1, 2])
    return tmp_path


def test_evaluate_segmentation(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "segmentation", "--data", str(data), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.pop("seconds") >= 0
    assert result == {
        "evaluation": "segmentation", "miou": 75.0, "accuracy": 85.71, "class_iou": {"Sky": 75.0, "Road": 75.0, "Tree": None},
        "model": "fake-segments", "variant": "fp32", "images": 2, "split": "val", "limit": None,
    }  # fmt: skip
    assert main(["evaluate", "segmentation", "--data", str(data), "--limit", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1


def test_evaluate_segmentation_of_folders(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = data / "images", data / "labels"
    images.mkdir()
    labels.mkdir()
    (images / "x.jpg").write_bytes(file_of(size=(2, 4)))
    arguments = ["evaluate", "segmentation", "--images", str(images), "--labels", str(labels), "--json"]
    assert main(arguments) == 1
    assert "the labels of x.jpg" in " ".join(capsys.readouterr().err.split())
    (labels / "x.png").write_bytes(labels_of(LABELS))
    assert main(arguments) == 1
    assert "the label 11 is not one of 3 classes; --ignore N" in " ".join(capsys.readouterr().err.split())
    assert main([*arguments, "--ignore", "11"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["accuracy"], result["split"]) == (85.71, None)
    (labels / "x.png").write_bytes(labels_of(LABELS[:2]))
    assert main([*arguments, "--ignore", "11"]) == 1
    assert "labels of shape" in " ".join(capsys.readouterr().err.split())
    (labels / "x.png").write_bytes(file_of(size=(2, 4)))
    assert main(arguments) == 1
    assert "mode RGB" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", "segmentation", "--images", str(images)]) == 2


def test_evaluate_classification(data: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "classification", "--data", str(data), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.pop("seconds") >= 0
    assert result == {
        "evaluation": "classification", "accuracy": 66.67, "class_accuracy": {"cat": 100.0, "dog": 100.0, "frog": 0.0},
        "confusion": [[1, 0, 0], [0, 1, 0], [0, 1, 0]], "model": "fake-classes", "variant": "fp32", "images": 3,
        "split": "val", "limit": None,
    }  # fmt: skip
    assert {request.top_k for request in server.classification.requests} == {1}


def test_evaluate_classification_of_folders(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = data / "classes"
    for name, colour in (("dog", "lime"), ("frog", "lime")):
        (images / name).mkdir(parents=True)
        (images / name / "x.png").write_bytes(file_of(colour))
    assert main(["evaluate", "classification", "--images", str(images), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["accuracy"], result["class_accuracy"]) == (50.0, {"cat": None, "dog": 100.0, "frog": 0.0})
    (images / "wolf").mkdir()
    (images / "wolf" / "x.png").write_bytes(file_of())
    assert main(["evaluate", "classification", "--images", str(images)]) == 1
    assert "fake-classes has no class wolf: it has cat, dog, frog" in " ".join(capsys.readouterr().err.split())


def test_an_image_that_fails_ends_the_evaluation(data: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    images = data / "classes" / "dog"
    images.mkdir(parents=True)
    (images / "x.png").write_bytes(b"bad")
    assert main(["evaluate", "classification", "--images", str(images.parent)]) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "image is bad" in shown
    assert "dog/x.png" in shown


@pytest.mark.parametrize(
    ("task", "folder", "file"), [("segmentation", "camvid", "val.tar"), ("classification", "cifar10", "val.npz")]
)
def test_what_an_evaluation_needs(
    task: str, folder: str, file: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / folder / file).write_bytes(b"text")
    for arguments, problem in (
        ([], "--data or ATTNSERVE_DATA, or a folder of images with --images"),
        (["--data", str(tmp_path / "nowhere")], f"that holds {folder}/"),
        (["--data", str(data), "--split", "test"], f"is test a split of {folder}?"),
        (["--data", str(data)], f"cannot read {data / folder / file}"),
    ):
        assert main(["evaluate", task, *arguments]) == 1
        assert "".join(problem.split()) in "".join(capsys.readouterr().err.split())
    assert main(["evaluate", "classification", "--images", str(data / "camvid")]) == 1
    assert "a folder of images for each class" in " ".join(capsys.readouterr().err.split())
