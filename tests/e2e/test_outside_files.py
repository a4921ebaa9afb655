# SPDX-License-Identifier: Apache-2.0
"""A server refuses bundles that reach out of their folder or were changed, each by name, and serves the others."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import onnx
import pytest

from attnserve.v1 import model_pb2, model_pb2_grpc
from tests.e2e.serving import MODELS, SENTENCES, Server, ask, serve, texts

SOUND, SMALL = "transformer-en-de", "seq2seq-en-de"


def copied(models: Path, version: str) -> Path:
    """A sound copy of a small model under another version."""
    folder = models / SMALL / version
    shutil.copytree(MODELS / SMALL / "1", folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": version}), encoding="utf-8")
    return folder


def external_data_outside(folder: Path) -> None:
    """A graph whose weights are those of another bundle; its SHA-256 is right, and ONNX Runtime would follow it."""
    path = folder / "encode.onnx"
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"../{folder.name}/../../../secret.bin"
    path.write_bytes(model.SerializeToString())
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for file in manifest["files"]:
        if file["name"] == "encode.onnx":
            file["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def link_outside(folder: Path) -> None:
    secret = folder.parents[2] / "secret.bin"
    shutil.copy(folder / "weights.bin", secret)
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to(secret)


def changed_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"no model")


def listed_but_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"no model")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for file in manifest["files"]:
        if file["name"] == "tokenizer.model":
            file["sha256"] = hashlib.sha256(b"no model").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "2": (external_data_outside, "encode.onnx: its external data '../2/../../../secret.bin' is not a listed file"),
    "3": (link_outside, "weights.bin is a link out of the bundle"),
    "4": (changed_tokenizer, "tokenizer.model is not the file that was listed (SHA-256 differs)"),
    "5": (listed_but_no_tokenizer, "tokenizer.model is not a SentencePiece model"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("outside")
    models = folder / "models"
    models.mkdir()
    (models / SOUND).symlink_to(MODELS / SOUND, target_is_directory=True)
    copied(models, "1")
    for version, (make, _) in FAULTS.items():
        make(copied(models, version))
    with serve(folder, "--workers", "1", "--models", str(models)) as running:
        yield running


def test_sound_models_are_served_and_the_others_are_not(server: Server, channel: grpc.Channel) -> None:
    answer = model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest(), timeout=20)
    assert {(model.id, model.version) for model in answer.models} == {(SOUND, "1"), (SMALL, "1")}
    assert texts(ask(channel, SENTENCES[0]))
    assert texts(ask(channel, SENTENCES[0], model=SMALL))
    server.assert_unharmed()


@pytest.mark.parametrize("version", FAULTS)
def test_refused_bundle_is_named_with_its_problem(server: Server, version: str) -> None:
    (line,) = [line for line in server.log.read_text().splitlines() if f"{SMALL}/{version}: " in line]
    assert "bundle cannot be served" in line
    assert FAULTS[version][1] in line
