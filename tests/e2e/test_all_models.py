# SPDX-License-Identifier: Apache-2.0
"""One server with all shipped models: every model translates and describes itself."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from attnserve.v1 import decoding_pb2, manifest_pb2, model_pb2, model_pb2_grpc, translation_pb2
from attnserve.v1.decoding_pb2 import DecodeOptions
from tests.e2e.serving import (
    MODELS,
    SENTENCES,
    ask,
    default_model_alone,
    details,
    serve,
    start_unary,
    streamed,
    texts,
)

TRANSLATORS = {"transformer-en-de": "transformer", "rnnsearch-en-de": "rnnsearch", "seq2seq-en-de": "seq2seq"}
SINGLE_PASS = {
    "dnl-camvid": "disentangled_nonlocal",
    "cbam-cifar10": "cbam",
    "nonlocal-fight": "nonlocal-video",
    "sagan-cifar10": "sagan",
}
ARCHITECTURES = {**TRANSLATORS, "show-attend-tell-flickr8k": "show-attend-tell", **SINGLE_PASS}


def manifest(channel: grpc.Channel, model: str) -> manifest_pb2.Manifest:
    return model_pb2_grpc.ModelServiceStub(channel).GetModel(model_pb2.GetModelRequest(model=model)).manifest


def test_all_are_there_and_one_is_the_default(channel: grpc.Channel) -> None:
    listed = model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest()).models
    assert {each.id: each.architecture for each in listed} == ARCHITECTURES
    assert {each.id: each.variant for each in listed} == {name: "fp32" if name in SINGLE_PASS else "int8" for name in ARCHITECTURES}
    assert ask(channel, SENTENCES[0]).model == "transformer-en-de"
    assert manifest(channel, "").model_id == "transformer-en-de"


def test_the_servers_own_default_wins(tmp_path: Path) -> None:
    setting = tmp_path / "server.toml"
    setting.write_text('[default_models]\ntranslation = "seq2seq-en-de"\n', encoding="utf-8")
    flags = ("--workers", "1", "--models", str(MODELS), "--config", str(setting))
    with serve(tmp_path, *flags) as server, server.channel() as channel:
        assert ask(channel, SENTENCES[0]).model == "seq2seq-en-de"


def test_a_default_that_is_not_there_is_named(tmp_path: Path) -> None:
    repository = default_model_alone(tmp_path)
    (repository / "defaults.toml").write_text('translation = "nonesuch"\n', encoding="utf-8")
    problem = r"default_models\.translation: 'nonesuch' is not served; there are transformer-en-de"
    with pytest.raises(AssertionError, match=problem), serve(tmp_path, "--workers", "1", "--models", str(repository)):
        pass


@pytest.mark.parametrize("model", TRANSLATORS)
def test_every_model_translates(channel: grpc.Channel, model: str) -> None:
    options = DecodeOptions(beam_size=5, num_hypotheses=2)
    answers = [start_unary(channel, text, options, model=model) for text in SENTENCES[:30]]
    for text, future in zip(SENTENCES[:30], answers, strict=True):
        answer = future.result()
        assert answer.model == model
        best, second = answer.hypotheses
        assert best.score >= second.score
        assert best.text != second.text
        assert best.text[0].isupper()
        assert best.text[-1] in '.?!"“', best.text
        assert 0.4 < len(best.text.split()) / len(text.split()) < 2
    whole = streamed(channel, SENTENCES[0], model=model)
    assert texts(whole.result) == texts(ask(channel, SENTENCES[0], model=model))


def test_models_share_the_worker(channel: grpc.Channel) -> None:
    alone = {model: [texts(ask(channel, text, model=model)) for text in SENTENCES[:8]] for model in TRANSLATORS}
    mixed = {model: [start_unary(channel, text, model=model) for text in SENTENCES[:8]] for model in TRANSLATORS}
    assert {model: [texts(future.result()) for future in futures] for model, futures in mixed.items()} == alone
    assert len({str(answers) for answers in alone.values()}) == len(TRANSLATORS), "different models say different things"


@pytest.mark.parametrize("model", TRANSLATORS)
def test_attention_is_what_the_manifest_says(channel: grpc.Channel, model: str) -> None:
    options = DecodeOptions(return_attention=decoding_pb2.ATTENTION_DETAIL_MEAN)
    if not manifest(channel, model).HasField("attention"):
        with pytest.raises(grpc.RpcError) as caught:
            ask(channel, SENTENCES[0], options, model=model)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert details(caught.value).fields == ("options.return_attention",)
        return
    answer: translation_pb2.TranslateResponse = ask(channel, "A dog runs through the snow.", options, model=model)
    (attention,) = answer.hypotheses[0].attention
    weights = np.reshape(attention.weights, (attention.num_target, attention.num_source))
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-3)
    target = next(i for i, piece in enumerate(answer.hypotheses[0].pieces) if piece.text == "Hund")
    assert answer.source_pieces[int(weights[target].argmax())].text == "dog"
