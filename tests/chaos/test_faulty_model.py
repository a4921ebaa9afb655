# SPDX-License-Identifier: Apache-2.0
"""A model whose step graph raises: its requests fail with INTERNAL and no internal details; all other requests are served."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import grpc
import pytest

from attnserve.v1 import translation_pb2, translation_pb2_grpc
from tests.chaos.faulty import FAULTY, POISON, SOUND, write_models
from tests.e2e.serving import SENTENCES, Server, ask, details, eventually, serve, start_unary, texts


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    write_models(models)
    with serve(tmp_path_factory.mktemp("server"), "--models", str(models), "--workers", "1", "--log-format", "json") as running:
        yield running


def check(error: grpc.RpcError) -> None:
    assert error.code() is grpc.StatusCode.INTERNAL
    assert details(error).reason == "EXECUTION_FAILED"
    assert error.details() == "the model could not be run"


def test_only_its_requests_fail_and_the_worker_recovers(server: Server) -> None:
    texts_of = dict.fromkeys((FAULTY, SOUND), SENTENCES[20:32])
    already = server.scrape().total("attnserve_requests_total", model=FAULTY, code="INTERNAL")
    stop, changed = threading.Event(), list[str]()
    with server.channel() as channel:
        expected = {(model, text): texts(ask(channel, text, model=model)) for model, each in texts_of.items() for text in each}

        def neighbour() -> None:
            while not stop.is_set():
                for text in texts_of[SOUND]:
                    if texts(ask(channel, text, model=SOUND)) != expected[SOUND, text]:
                        changed.append(text)

        thread = threading.Thread(target=neighbour)
        thread.start()
        try:
            for kind in ("unary", "stream") * 10:
                with pytest.raises(grpc.RpcError) as raised:
                    ask(channel, POISON, model=FAULTY, kind=kind)
                check(raised.value)
                assert texts(ask(channel, texts_of[FAULTY][0], model=FAULTY)) == expected[FAULTY, texts_of[FAULTY][0]]
        finally:
            stop.set()
            thread.join(30)
        assert not changed
        assert {key: texts(ask(channel, key[1], model=key[0])) for key in expected} == expected
    eventually(lambda: server.scrape().total("attnserve_slots", state="used") == 0, "all slots free")
    assert server.scrape().total("attnserve_requests_total", model=FAULTY, code="INTERNAL") == already + 20
    assert server.scrape().total("attnserve_requests_total", model=SOUND, code="INTERNAL") == 0
    server.assert_unharmed()


def test_requests_of_the_failed_step_fail_and_later_ones_do_not(server: Server) -> None:
    with server.channel() as channel:
        expected = [texts(ask(channel, text, model=FAULTY)) for text in SENTENCES[20:28]]
        others = [start_unary(channel, text, model=FAULTY) for text in SENTENCES[20:28]]
        poison = start_unary(channel, POISON, model=FAULTY)
        assert poison.exception(timeout=60) is not None
        for call, answer in zip(others, expected, strict=True):
            error = call.exception(timeout=60)
            if error is None:
                assert texts(call.result()) == answer
            else:
                check(error)
        assert [texts(ask(channel, text, model=FAULTY)) for text in SENTENCES[20:28]] == expected
    server.assert_unharmed()


def test_log_has_the_failure_under_the_id_of_its_request(server: Server) -> None:
    """The worker logs in the format that the server is configured with."""
    with server.channel() as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.Translate(
                translation_pb2.TranslateRequest(text=POISON, model=FAULTY), timeout=60, metadata=(("x-request-id", "poison-1"),)
            )
    check(raised.value)
    eventually(lambda: server.log.read_text().count('"poison-1"') == 2, "both lines, which threads write")
    lines = server.log.read_text().splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    assert all("onnxruntime:" in line for line in lines if not line.startswith("{")), "ONNX Runtime's own words, and no others"
    own = [entry for entry in entries if entry["request_id"] == "poison-1"]
    failure, answer = own
    assert failure["level"] == "ERROR"
    assert failure["logger"].startswith("attnserve_server.engine.worker")
    assert "Traceback" in failure["exception"]
    assert answer["code"] == "INTERNAL"
    assert POISON not in json.dumps(entries), "no text of a user"
