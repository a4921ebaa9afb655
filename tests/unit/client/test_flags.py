# SPDX-License-Identifier: Apache-2.0
"""Errors of commands name the flags of the command, not the fields of the protos; each once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from typer.main import get_command

from attnserve.v1 import caption_pb2, classification_pb2, generation_pb2, segmentation_pb2, translation_pb2
from attnserve_client import Client, InvalidRequest
from attnserve_client.cli import main
from attnserve_client.cli.app import build_app
from attnserve_client.cli.flags import FLAGS
from attnserve_server.errors import InvalidRequest as Refused
from attnserve_server.tasks.options import AskedOptions, AskedSampling, decode_options
from tests.fakes.dataplane import letters_model
from tests.fakes.server import FakeServer
from tests.unit.client.pictures import file_of

REQUESTS: dict[str, Descriptor] = {
    "translate": translation_pb2.TranslateRequest.DESCRIPTOR,
    "caption": caption_pb2.CaptionRequest.DESCRIPTOR,
    "segment": segmentation_pb2.SegmentRequest.DESCRIPTOR,
    "classify": classification_pb2.ClassifyImageRequest.DESCRIPTOR,
    "classify-video": classification_pb2.ClassifyVideoRequest.DESCRIPTOR,
    "generate": generation_pb2.GenerateImageRequest.DESCRIPTOR,
}
"""The request that each command sends."""
WITHOUT = {"text", "image", "video", "frames", "version", "format", "form", "options", "options.omit_score"}
"""Fields that no flag sets: arguments, and what no command asks for."""


@pytest.fixture(autouse=True)
def address(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNSERVE_ADDRESS", server.address)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(file_of())


def fields_of(request: Descriptor, prefix: str = "") -> set[str]:
    """Paths of the fields of a request, with those of its options."""
    found = set()
    for field in request.fields:
        found.add(prefix + field.name)
        if field.message_type is not None and field.name in ("options", "sampling"):
            found |= fields_of(field.message_type, f"{prefix}{field.name}.")
    return found


def flags_of(command: str) -> set[str]:
    group: Any = get_command(build_app())
    return {flag for parameter in group.commands[command].params for flag in parameter.opts}


@pytest.mark.parametrize("command", REQUESTS)
def test_every_field_of_a_request_has_a_flag_of_its_command_or_none_at_all(command: str) -> None:
    fields = fields_of(REQUESTS[command])
    assert {field for field in fields if field not in FLAGS} <= WITHOUT
    assert {field for field in fields & FLAGS.keys() if not flags_of(command) & set(FLAGS[field])} == set()


def test_the_table_has_no_field_or_flag_that_does_not_exist() -> None:
    group: Any = get_command(build_app())
    commands = [*group.commands.values(), *group.commands["evaluate"].commands.values()]
    existing = {flag for command in commands for parameter in command.params for flag in parameter.opts}
    assert {flag for flags in FLAGS.values() for flag in flags} <= existing
    assert FLAGS.keys() <= set().union(*map(fields_of, REQUESTS.values()))


ERRORS: list[tuple[str, str, str, str, str]] = [
    ("translate --beam-size 99 a", "translate_many", "options.beam_size must be from 1 to 8; it is 99", "options.beam_size",
     "--beam-size must be from 1 to 8; it is 99"),
    ("translate --no-repeat-ngram 99 a", "translate_many", "options.no_repeat_ngram_size must be 1", "options.no_repeat_ngram_size",
     "--no-repeat-ngram must be 1"),
    ("translate --stream --seed 1 --beam-size 2 a", "translate_stream", "options.sampling needs options.beam_size 1; it is 2",
     "options.sampling", "--seed needs --beam-size 1; it is 2"),
    ("translate --sample --top-k 2 a", "translate_many", "options.sampling is bad", "options.sampling", "--sample or --top-k is bad"),
    ("translate --temperature 0 a", "translate_many", "options.sampling.temperature must be above 0", "options.sampling.temperature",
     "--temperature must be above 0"),
    ("translate --seed -1 a", "", "", "", "--seed must be an integer from 0 to 18446744073709551615; it is -1"),
    ("translate --show-attention a", "translate_many", "options.return_attention needs attention", "options.return_attention",
     "--show-attention needs attention"),
    ("translate --model x a", "translate_many", "no model 'x'; there are a, b", "model", "no model 'x'; there are a, b (--model)"),
    ("translate a", "translate_many", "no model 'beam_size'", "model", "no model 'beam_size' (--model)"),
    ("translate a", "translate_many", "text must not be empty", "text", "text must not be empty"),
    ("translate a", "translate_many", "too many pieces", "text", "too many pieces (field text)"),
    ("translate a", "translate_many", "the priority is bad", "priority", "the priority is bad (--priority)"),
    ("translate a", "translate_many", "version is bad", "version", "version is bad"),
    ("caption --attention b.png a.png", "caption_many", "options.return_attention is bad", "options.return_attention",
     "--attention is bad"),
    ("caption --prefix A --max-tokens 1 a.png", "caption_many", "options.prefix must have fewer pieces than max_tokens (1); it has 1",
     "options.prefix", "--prefix must have fewer pieces than --max-tokens (1); it has 1"),
    ("segment --json --query 1,1 --query 99,1 a.png", "segment_many", "queries[1].x must be below 60: it is 99", "queries[1].x",
     "x of the 2nd --query must be below 60: it is 99"),
    ("segment --json --query 1,1 a.png", "segment_many", "queries must be at most 16; there are 17", "queries",
     "--query must be at most 16; there are 17"),
    ("segment --attention b.png a.png", "segment_many", "return_unary needs attention", "return_unary", "--attention needs attention"),
    ("classify --top-k 99 a.png", "classify_many", "top_k must be at most 10; it is 99", "top_k", "--top-k must be at most 10; it is 99"),
    ("classify --attention b.png a.png", "classify_many", "return_attention needs attention", "return_attention",
     "--attention needs attention"),
    ("classify-video --json --at 99,0,0 a.png", "classify_video", "queries[0].frame must be below 32; it is 99", "queries[0].frame",
     "frame of the 1st --at must be below 32; it is 99"),
    ("generate --class cow --json", "generate_image", "class_name must be one of cat, dog", "class_name",
     "--class must be one of cat, dog"),
    ("generate --class cat --count 99 --json", "generate_image", "count must be from 1 to 64; it is 99", "count",
     "--count must be from 1 to 64; it is 99"),
    ("generate --class cat --seed -1 --json", "", "", "", "--seed must be an integer from 0 to 18446744073709551615; it is -1"),
    ("generate --class cat --attention b.png --at 99,1", "generate_image", "attention_at.x must be below 32: it is 99",
     "attention_at.x", "x of --at must be below 32: it is 99"),
    ("evaluate lengths --model x --beam-size 9", "get_model", "options.beam_size is bad", "options.beam_size",
     "--beam-size is bad"),
    ("evaluate gain --model x --against y", "get_model", "no model 'y'", "model", "no model 'y' (--model or --against)"),
    ("models", "list_models", "model is bad", "model", "model is bad"),
]  # fmt: skip
"""Arguments, the client's method that fails, the message and field of its error, and what the command prints."""


@pytest.mark.parametrize(("arguments", "method", "message", "field", "printed"), ERRORS, ids=[error[0] for error in ERRORS])
def test_an_error_names_the_flag_once(
    arguments: str,
    method: str,
    message: str,
    field: str,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise InvalidRequest(message, field=field)

    if method:
        monkeypatch.setattr(Client, method, fail)
        monkeypatch.setattr(Client, "list_models", fail)
    assert main(arguments.split()) == 1
    assert capsys.readouterr().err == f"error: {printed}\n"


def test_an_error_of_one_item_names_the_flag_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = InvalidRequest("return_unary needs attention", field="return_unary", request_id="r-1")
    monkeypatch.setattr(Client, "segment_many", lambda *_, **__: (each for each in [error, error]))
    Path("b.png").write_bytes(file_of())
    assert main(["segment", "--attention", "out", "a.png", "b.png"]) == 1
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == "error: --attention needs attention (a.png, request r-1)"


ASKED = [
    AskedOptions(beam_size=99),
    AskedOptions(num_hypotheses=9, beam_size=2),
    AskedOptions(length_penalty=-1.0),
    AskedOptions(coverage_penalty=99.0),
    AskedOptions(max_tokens=10**6),
    AskedOptions(min_tokens=10**6),
    AskedOptions(no_repeat_ngram_size=10**6),
    AskedOptions(repetition_penalty=0.0),
    AskedOptions(beam_size=2, sampling=AskedSampling(seed=1)),
    AskedOptions(sampling=AskedSampling(temperature=0.0)),
    AskedOptions(sampling=AskedSampling(temperature=1e9)),
    AskedOptions(sampling=AskedSampling(top_p=2.0)),
]
"""Options that the server refuses."""


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_no_message_of_the_server_about_options_has_a_name_of_the_protos(
    asked: AskedOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Refused) as refused:
        decode_options(asked, letters_model())
    message, field = refused.value.message, refused.value.field
    assert "_" in message or "options." in message

    def fail(*_: Any, **__: Any) -> Any:
        raise InvalidRequest(message, field=field)

    monkeypatch.setattr(Client, "translate_many", fail)
    assert main(["translate", "a"]) == 1
    printed = capsys.readouterr().err
    assert re.match(r"error: --[a-z-]+ ", printed)
    assert "_" not in printed
    assert "options." not in printed
    assert "field" not in printed


def test_outside_a_command_a_field_keeps_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    from attnserve_client.cli import output

    output.report(InvalidRequest("bad", field="options.beam_size"))
    output.report(InvalidRequest("options.beam_size is bad", field="options.beam_size"))
    assert capsys.readouterr().err == "error: bad (field options.beam_size)\nerror: options.beam_size is bad\n"


def test_a_flag_that_is_missing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    app = build_app()
    app.registered_commands = [each for each in app.registered_commands if each.name != "generate"]

    @app.command("generate")
    def generate(count: int = 1) -> None:
        """Has only one of the flags."""

    monkeypatch.setitem(globals(), "build_app", lambda: app)
    with pytest.raises(AssertionError, match="class_name"):
        test_every_field_of_a_request_has_a_flag_of_its_command_or_none_at_all("generate")
