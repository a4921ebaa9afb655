# SPDX-License-Identifier: Apache-2.0
"""Both foreign models as bundles, served by the engine and by a whole server without changes: answers equal PyTorch's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import pytest

from attnserve.v1 import decoding_pb2, model_pb2, model_pb2_grpc, translation_pb2, translation_pb2_grpc
from attnserve_export.bundle_writer import write_bundle
from attnserve_server.bundle.loader import load_bundle
from attnserve_server.request import AttentionDetail, DecodeOptions, sequence_work
from attnserve_server.tasks.translation import TranslationTask
from tests.driving import attention_of, run, started_engine
from tests.foreign import common, gru_luong, post_norm_transformer
from tests.reference.beam_search import SearchResult, beam_search, teacher_forced_alignments
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

MODELS = [gru_luong, post_norm_transformer]
TEXTS = common.sentences()[5:185:6]
MARGIN = 1e-4
MAX_NEAR_TIES = 0.05
OPTIONS = {"greedy": DecodeOptions(max_tokens=20), "beam": DecodeOptions(beam_size=3, num_hypotheses=3, max_tokens=20)}
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60


@dataclass
class Written:
    """A model's module and the bundle that was written from it."""

    model: ModuleType
    module: Any
    folder: Path

    @property
    def gives_attention(self) -> bool:
        return bool(self.model.describe().HasField("attention"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> list[Written]:
    root = tmp_path_factory.mktemp("models")
    written = []
    for model in MODELS:
        module, folder = model.build_module(), root / model.MODEL_ID / "1"
        write_bundle(folder, model.describe(), model.build_graphs(module), model.extra_files())
        written.append(Written(model, module, folder))
    return written


@pytest.fixture(scope="module", params=range(len(MODELS)), ids=[model.MODEL_ID for model in MODELS])
def written(request: pytest.FixtureRequest, repository: list[Written]) -> Written:
    return repository[request.param]


def reference(module: Any, source: list[int], options: DecodeOptions) -> SearchResult:
    return beam_search(
        module, source, beam_size=options.beam_size, max_tokens=options.max_tokens, num_hypotheses=options.num_hypotheses
    )


def test_engine_answers_as_pytorch_does(written: Written) -> None:
    engine = started_engine(load_bundle(written.folder), num_slots=16)
    task = TranslationTask(engine.bundle)
    sources = [task.encode(text).tokens for text in TEXTS]
    requests, asked = [], {}
    for index, source in enumerate(sources):
        for offset, options in enumerate(OPTIONS.values()):
            detail = AttentionDetail(index % 3) if written.gives_attention else AttentionDetail.NONE
            options = DecodeOptions(options.beam_size, options.num_hypotheses, max_tokens=options.max_tokens, attention=detail)
            requests.append(sequence_work(2 * index + offset, source, options))
            asked[2 * index + offset] = (source, options)
    answers = run(engine, requests)
    num_near_ties = num_attention = 0
    for request_id, answer in answers.items():
        source, options = asked[request_id]
        expected = reference(written.module, source, options)
        if [one.tokens for one in answer.outcome.hypotheses] != [one.tokens for one in expected.hypotheses]:
            assert expected.margin <= MARGIN, f"request {request_id} differs, and its margin is {expected.margin:.3g}"
            num_near_ties += 1
            continue
        for one, other in zip(answer.outcome.hypotheses, expected.hypotheses, strict=True):
            assert one.finish_reason == other.finish_reason
            assert one.score == pytest.approx(other.score, abs=1e-4)
            assert (one.attention is not None) == bool(options.attention)
            if options.attention:
                weights = teacher_forced_alignments(written.module, source, one.tokens)[:, 0, 0].numpy()
                assert attention_of(one).shape == weights.shape
                assert np.abs(attention_of(one) - weights).max() < 1e-4
                num_attention += 1
    assert num_near_ties <= MAX_NEAR_TIES * len(answers)
    assert (num_attention > 0) == written.gives_attention
    assert any(one.tokens[-1] == common.END_ID for answer in answers.values() for one in answer.outcome.hypotheses)


def test_batch_mates_change_no_tokens(written: Written) -> None:
    engine = started_engine(load_bundle(written.folder), num_slots=16)
    task = TranslationTask(engine.bundle)
    requests = [sequence_work(index, task.encode(text).tokens, OPTIONS["beam"]) for index, text in enumerate(TEXTS[:10])]
    alone = {request.request_id: run(engine, [request])[request.request_id] for request in requests}
    together = run(engine, requests)
    for request_id, answer in alone.items():
        assert [one.tokens for one in together[request_id].outcome.hypotheses] == [one.tokens for one in answer.outcome.hypotheses]


@pytest.fixture(scope="module")
def channel(repository: list[Written], tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A server of both bundles in a process of its own."""
    folder = tmp_path_factory.mktemp("server")
    ready, log = folder / "ready.json", folder / "log.txt"
    command = [sys.executable, "-m", "attnserve_server", "--models", str(repository[0].folder.parents[1]), "--workers", "1"]
    command += ["--grpc-port", "0", "--http-port", "0", "--ready-file", str(ready), "--device", "cpu"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ATTNSERVE_")}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=environment)
    try:
        until = time.monotonic() + START_SECONDS
        while not ready.exists():
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < until, log.read_text(encoding="utf-8")
            time.sleep(0.05)
        port = json.loads(ready.read_text(encoding="utf-8"))["grpc_port"]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
            yield opened
    finally:
        process.terminate()
        try:
            code = process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
    assert code == 0, log.read_text(encoding="utf-8")


def test_server_lists_both(channel: grpc.Channel) -> None:
    listed = model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest(), timeout=60).models
    assert [one.id for one in listed] == sorted(model.MODEL_ID for model in MODELS)
    assert all(one.state == model_pb2.MODEL_STATE_READY for one in listed)


def test_server_answers_for_both_at_once(channel: grpc.Channel, repository: list[Written]) -> None:
    stub = translation_pb2_grpc.TranslationServiceStub(channel)
    calls = []
    for text in TEXTS[:12]:
        for each in repository:
            for options in OPTIONS.values():
                wire = decoding_pb2.DecodeOptions(
                    beam_size=options.beam_size, num_hypotheses=options.num_hypotheses, max_tokens=options.max_tokens
                )
                if each.gives_attention:
                    wire.return_attention = decoding_pb2.ATTENTION_DETAIL_MEAN
                request = translation_pb2.TranslateRequest(text=text, model=each.model.MODEL_ID, options=wire)
                calls.append((each, text, options, stub.Translate.future(request, timeout=60)))
    tasks = {each.model.MODEL_ID: TranslationTask(load_bundle(each.folder)) for each in repository}
    num_near_ties = 0
    for each, text, options, call in calls:
        answer, task = call.result(), tasks[each.model.MODEL_ID]
        assert (answer.model, answer.version) == (each.model.MODEL_ID, "1")
        source = task.encode(text).tokens
        expected = reference(each.module, source, options)
        texts = [task.render(one.tokens)[0] for one in expected.hypotheses]
        if [one.text for one in answer.hypotheses] != texts:
            assert expected.margin <= MARGIN
            num_near_ties += 1
            continue
        for one, other in zip(answer.hypotheses, expected.hypotheses, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)
            assert len(one.pieces) == len(other.tokens)
            assert [one.text[piece.begin : piece.end] for piece in one.pieces] == [piece.text for piece in one.pieces]
            if each.gives_attention:
                weights = teacher_forced_alignments(each.module, source, other.tokens)[:, 0, 0].numpy()
                (matrix,) = one.attention
                assert (matrix.num_target, matrix.num_source) == weights.shape
                assert np.abs(np.array(matrix.weights).reshape(weights.shape) - weights).max() < 1e-4
    assert num_near_ties <= MAX_NEAR_TIES * len(calls)


def test_attention_that_a_model_does_not_have_is_refused(channel: grpc.Channel) -> None:
    stub = translation_pb2_grpc.TranslationServiceStub(channel)
    options = decoding_pb2.DecodeOptions(return_attention=decoding_pb2.ATTENTION_DETAIL_MEAN)
    request = translation_pb2.TranslateRequest(text=TEXTS[0], model=post_norm_transformer.MODEL_ID, options=options)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Translate(request, timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
