# SPDX-License-Identifier: Apache-2.0
"""A model with a wrong weight, its checksums correct: it is refused at its start, and other models are served."""

from __future__ import annotations

import shutil
from pathlib import Path

import grpc
import onnx
import pytest
from onnx import numpy_helper

from attnserve_export.bundle_writer import read_manifest, write_manifest
from tests.e2e.serving import MODELS, SENTENCES, ask, details, serve, texts

WRONG, SOUND = "rnnsearch-en-de", "seq2seq-en-de"


def test_wrong_weight_is_refused_and_other_models_are_served(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for model in (WRONG, SOUND):
        shutil.copytree(MODELS / model, models / model)
    folder = models / WRONG / "1"
    step = onnx.load(folder / "step_1_int8.onnx")
    weight = next(each for each in step.graph.initializer if each.data_type == onnx.TensorProto.FLOAT16 and len(each.dims) == 2)
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))
    onnx.save(step, folder / "step_1_int8.onnx")
    write_manifest(folder, read_manifest(folder))
    with serve(tmp_path / "server", "--models", str(models), "--workers", "1") as server, server.channel() as channel:
        assert all(texts(ask(channel, text, model=SOUND)) for text in SENTENCES[:4])
        with pytest.raises(grpc.RpcError) as raised:
            ask(channel, SENTENCES[0], model=WRONG)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        assert details(raised.value).reason == "MODEL_NOT_FOUND"
        log = server.log.read_text()
    assert "variant int8, golden input 1, beam size 1: expected " in log
    assert f"{WRONG}, version 1, has no golden answers" not in log
