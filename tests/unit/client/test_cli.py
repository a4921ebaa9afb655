# SPDX-License-Identifier: Apache-2.0
"""The command line, from its arguments to what it prints, through a real connection."""

from __future__ import annotations

import gzip
import io
import json
import math
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points, metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import typer
from PIL import Image
from rich.console import Console
from rich.text import Text
from sacrebleu.metrics.bleu import BLEU

from attnserve.v1 import manifest_pb2
from attnserve_client import __version__
from attnserve_client.cli import app as cli_app
from attnserve_client.cli import main, output, plugins, streams
from attnserve_client.errors import ToolError
from attnserve_client.lines import translate_lines
from attnserve_client.retry import RetryPolicy
from attnserve_client.types import CaptionDelta
from tests.fakes.server import OVERLOADED, Failure, FakeServer

TOO_LONG = Failure(grpc.StatusCode.INVALID_ARGUMENT, "too many\npieces", "SEQUENCE_TOO_LONG", "text")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> None:
    """Sets the fake server as the default one, and removes the machine's own settings."""
    monkeypatch.setenv("ATTNSERVE_ADDRESS", server.address)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("ATTNSERVE_DATA", raising=False)
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)


def feed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"attnserve {__version__}\n"


def test_translate(capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    arguments = ["a dog", "two cats", "--model", "m", "--beam-size", "4", "--length-penalty", "0.6", "--max-tokens", "9"]
    assert main(["translate", *arguments]) == 0
    assert capsys.readouterr().out == "DOG A\nCATS TWO\n"
    request = server.translation.requests[0]
    assert (request.model, request.options.beam_size, request.options.max_tokens) == ("m", 4, 9)
    assert request.options.length_penalty == pytest.approx(0.6)


def test_every_option(capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    flags = "--coverage-penalty 0.25 --min-tokens 2 --no-repeat-ngram 3 --repetition-penalty 1.5 --temperature 0.75 --top-k 7"
    more = ["--top-p", "0.5", "--seed", "11", "--prefix", "Ein", "--split-sentences", "--priority", "-2"]
    for mode in ([], ["--stream"]):
        assert main(["translate", "a dog", *flags.split(), *more, *mode]) == 0
    assert capsys.readouterr().out == "DOG A\n" * 2
    for request in server.translation.requests:
        options, sampling = request.options, request.options.sampling
        assert (options.coverage_penalty, options.min_tokens, options.no_repeat_ngram_size) == (0.25, 2, 3)
        assert (options.repetition_penalty, options.prefix) == (1.5, "Ein")
        assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.75, 7, 0.5, 11)
        assert (request.split_sentences, request.priority) == (True, -2)


def test_sample(server: FakeServer) -> None:
    for flags in ([], ["--sample"], ["--sample", "--temperature", "0.5"], ["--seed", "3"]):
        assert main(["translate", "a", *flags]) == 0
    searched, *sampled = [request.options for request in server.translation.requests]
    assert not searched.HasField("sampling")
    assert [(options.sampling.temperature, options.sampling.seed) for options in sampled] == [(1.0, 0), (0.5, 0), (0.0, 3)]


def test_address_option_wins(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    monkeypatch.setattr(RetryPolicy, "backoff_s", lambda self, attempt, error, draw: math.inf)  # ends with the first attempt
    assert main(["translate", "x", "--address", f"127.0.0.1:{unused_port}", "--timeout", "60"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: no answer from 127.0.0.1:{unused_port}")
    assert captured.err.count("\n") == 1


def test_n_best(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", "a dog", "--beam-size", "2", "--num-hypotheses", "2"]) == 0
    assert capsys.readouterr().out == "1\t-0.5000\tDOG A\n2\t-1.5000\tDOG A!\n"


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_lines_of_standard_input(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: FakeServer
) -> None:
    feed(monkeypatch, "\none line\n  \nanother\n\n\nlast without an end")
    server.translation.failures.append(OVERLOADED)
    assert main(["translate", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out == "\nLINE ONE\n\nANOTHER\n\n\nEND AN WITHOUT LAST\n"
    assert captured.err == ""


def test_input_without_line_ends_is_refused_before_it_fills_the_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_LINE", 10)
    feed(monkeypatch, "ten chars\n")
    assert main(["translate"]) == 0
    feed(monkeypatch, "ten chars\nten chars.\nnever read")
    assert main(["translate"]) == 1
    assert capsys.readouterr().err == "error: standard input has a line of 10 characters or more: is it text?\n"


def test_text_that_is_the_path_of_a_file_gets_a_hint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two lines.txt").write_text("a\nb\n", encoding="utf-8")
    assert main(["translate", "two lines.txt"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("LINES.TXT TWO\n", "lines of a file: attnserve translate < 'two lines.txt'\n")


@pytest.mark.parametrize("texts", [["none.txt"], ["x" * 5000], ["."], ["a\0b"], ["file", "file"]])
def test_other_texts_get_no_hint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, texts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["translate", *texts]) == 0
    assert capsys.readouterr().err == ""


def test_many_lines_keep_their_order(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, "".join(f"line{number}\n" for number in range(200)))
    assert main(["translate"]) == 0
    assert capsys.readouterr().out.split() == [f"LINE{number}" for number in range(200)]


def test_error_of_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> None:
    feed(monkeypatch, "fine\n\nbad\nfine\n")
    server.translation.before = lambda request, context: TOO_LONG.abort(context) if request.text == "bad" else None
    assert main(["translate"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "FINE\n\n\nFINE\n", "its line is empty"
    assert captured.err == (
        "error: too many pieces (line 3, field text, request r-1)\nerror: 1 of 4 lines could not be translated\n"
    )
    assert main(["translate", "fine", "bad", "fine", "--json"]) == 1
    first, second, third = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["text"] == third["text"] == "FINE"
    assert second == {
        "error": {"message": "too many\npieces", "code": "INVALID_ARGUMENT", "reason": "SEQUENCE_TOO_LONG", "field": "text"}
    }


@pytest.mark.parametrize("flags", [[], ["--stream"]], ids=["whole", "stream"])
def test_line_that_is_not_utf_8_costs_no_other(server: FakeServer, flags: list[str]) -> None:
    program = [sys.executable, "-m", "attnserve_client.cli", "translate", *flags]
    done = subprocess.run(program, input=b"a dog\nin a caf\xe9\ntwo cats\n", capture_output=True, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (1, b"DOG A\n\nCATS TWO\n")
    assert done.stderr.count(b"\n") == 2
    assert b"error: text is not valid Unicode: character 9 is the byte 0xe9, which is not UTF-8 (line 2)" in done.stderr


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Failure(grpc.StatusCode.NOT_FOUND, "no model", "MODEL_NOT_FOUND", "model"), "no model (line 1"),
        (Failure(grpc.StatusCode.INVALID_ARGUMENT, "wrong", "INVALID_REQUEST", "options.beam_size"), "wrong (line 1"),
    ],
)
def test_error_of_all_lines_ends_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: FakeServer, failure: Failure, words: str
) -> None:
    feed(monkeypatch, "one\ntwo\nthree\n")
    server.translation.before = lambda request, context: failure.abort(context)
    assert main(["translate"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_evaluation_names_the_line_that_is_not_utf_8(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source, reference = tmp_path / "s", tmp_path / "r"
    source.write_bytes(b"one\ntw\xff\n")
    reference.write_bytes(b"one\ntwo\n")
    assert main(["evaluate", "translation", "--source", str(source), "--reference", str(reference)]) == 1
    assert "s: line 2 is not UTF-8" in capsys.readouterr().err.replace("\n", "")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", "a dög", "--json", "--show-attention"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == "DÖG A"
    assert answer["source_pieces"][1] == {"text": " dög", "begin": 1, "end": 5, "copied_from": None}
    assert answer["hypotheses"][0]["finish_reason"] == "stop"
    assert [len(row) for row in answer["hypotheses"][0]["attention"]] == [3, 3, 3]
    assert answer["timings"]["total_s"] == 0.5


def test_stream(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", "a dog runs", "one", "--stream"]) == 0
    assert capsys.readouterr().out == "RUNS DOG A\nONE\n"
    assert main(["translate", "a dog", "--stream", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [next(iter(event)) for event in events] == ["delta", "delta", "result"]


@pytest.mark.parametrize("num_deltas", [0, 1])
def test_stream_prints_its_text_once(num_deltas: int, capsys: pytest.CaptureFixture[str]) -> None:
    whole: Any = SimpleNamespace(text="a dog")
    output.print_stream([CaptionDelta("a dog", ())] * num_deltas + [whole], as_json=False)
    assert capsys.readouterr().out == "a dog\n"


def test_attention_is_drawn_and_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    assert main(["translate", "one two three", "--attention", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("THREE TWO ONE\n")
    assert "THREE ███" in shown
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 300
        assert picture.height > 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["translate", "a", "b", "--attention", "x.png"],
        ["translate", "--attention", "x.png"],
        ["translate", "a", "--stream", "--show-attention"],
        ["translate", "a", "--beam-size", "many"],
        ["evaluate", "translation"],
        ["evaluate", "translation", "--source", "x"],
        ["nothing-of-this-name"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().out == ""
    assert not server.translation.requests


def test_attention_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["translate", "one", "--attention", str(tmp_path / "no" / "folder.png")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_command_says_once_that_it_waits_for_a_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    # Ends with the twentieth attempt, whose wait would pass the deadline, however long the attempts take.
    monkeypatch.setattr(RetryPolicy, "backoff_s", lambda self, attempt, error, draw: 0.0 if attempt < 20 else math.inf)
    assert main(["translate", "x", "y", "--address", f"127.0.0.1:{unused_port}", "--timeout", "60"]) == 1
    note, error = capsys.readouterr().err.splitlines()
    assert note == f"no answer from 127.0.0.1:{unused_port} yet (is a server running there?); trying again until the timeout"
    assert error.startswith(f"error: no answer from 127.0.0.1:{unused_port}: ")


def test_models(capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("fake-en-de", "translation", "ready", "120"))
    assert main(["models", "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)
    assert (model["id"], model["task"], model["state"], model["max_beam_size"]) == ("fake-en-de", "translation", "ready", 8)
    server.models.models.clear()
    assert main(["models"]) == 0
    assert "no model" in capsys.readouterr().out


@pytest.mark.parametrize("width", [None, 80], ids=["pipe", "terminal"])
def test_models_are_listed_with_all_letters_of_their_ids(
    width: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: FakeServer
) -> None:
    name = "show-attend-tell-flickr8k"
    server.models.models[0].id, server.models.models[0].task = name, manifest_pb2.TASK_VIDEO_CLASSIFICATION
    if width:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["models"]) == 0
    lines = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert all(len(line) <= (width or 1000) for line in lines)
    assert "".join(line.split(" ")[0] for line in lines) == f"model{name}"
    assert len(lines) == (4 if width else 2)


def test_health(capsys: pytest.CaptureFixture[str], server: FakeServer, unused_port: int) -> None:
    server.set_serving(True)
    assert main(["health"]) == 0
    assert capsys.readouterr().out == f"the server at {server.address}: serving\n"
    assert main(["health", "--model", "some-model"]) == 1
    assert capsys.readouterr().out == f"the server at {server.address}, model some-model: not serving, or not reachable\n"
    server.set_serving(False)
    assert main(["health"]) == 1
    assert main(["health", "--address", f"127.0.0.1:{unused_port}", "--timeout", "1"]) == 1


SOURCES = ["the cat sat on the mat", "", "a second sentence goes here now"]
REFERENCES = ["MAT THE ON SAT CAT THE", "nothing", "now here goes sentence another A"]


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f" {line}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_evaluate(capsys: pytest.CaptureFixture[str], tmp_path: Path, server: FakeServer) -> None:
    source, reference = write(tmp_path / "s.gz", SOURCES), write(tmp_path / "r.txt", REFERENCES)
    arguments = ["--source", str(source), "--reference", str(reference), "--model", "fake-en-de", "--beam-size", "5", "--json"]
    assert main(["evaluate", "translation", *arguments, "--length-penalty", "0.5"]) == 0
    out = capsys.readouterr().out
    result = json.loads(out)
    assert out.count("\n") == 1
    hypotheses = [" ".join(reversed(line.upper().split())) for line in SOURCES]
    assert result["bleu"] == pytest.approx(BLEU().corpus_score(hypotheses, [REFERENCES]).score)
    assert result["bleu_lc"] == pytest.approx(BLEU(lowercase=True).corpus_score(hypotheses, [REFERENCES]).score)
    assert result["bleu_lc"] > result["bleu"] > 0
    assert 0 < result["chrf"] < 100
    assert "case:mixed" in result["signature"]
    assert "tok:13a" in result["signature"]
    assert (result["sentences"], result["tokens"], result["model"]) == (3, 14, "fake-en-de")
    assert result["seconds"] >= 0
    assert (result["beam_size"], result["length_penalty"]) == (5, 0.5)
    assert "seed" not in result
    assert (result["variant"], result["split"]) == ("fp32", None)
    assert len(server.translation.requests) == 2
    flags = ["--sample", "--seed", "0", "--no-repeat-ngram", "3", "--split-sentences", "--max-tokens", "9"]
    assert main(["evaluate", "translation", *arguments[:4], *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    names = ("beam_size", "temperature", "seed", "no_repeat_ngram_size", "split_sentences", "max_tokens")
    assert [result[name] for name in names] == [None, 1.0, 0, 3, True, 9]
    last = server.translation.requests[-1]
    assert (last.options.sampling.HasField("seed"), last.split_sentences) == (True, True)


def test_evaluate_a_split_of_the_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeServer
) -> None:
    write(tmp_path / "multi30k" / "val.en.gz", SOURCES)
    write(tmp_path / "multi30k" / "val.de.gz", REFERENCES)
    monkeypatch.setenv("ATTNSERVE_DATA", str(tmp_path))
    assert main(["evaluate", "translation", "--split", "val", "--limit", "1"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["sentences"], result["bleu"]) == (1, pytest.approx(100))
    assert (result["variant"], result["split"]) == ("fp32", "val")
    assert main(["evaluate", "translation", "--split", "other"]) == 1
    assert "other.en.gz" in capsys.readouterr().err
    server.models.models.clear()
    assert main(["evaluate", "translation", "--split", "val"]) == 1
    assert "no model" in capsys.readouterr().err


def test_evaluate_without_what_it_needs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeServer
) -> None:
    assert main(["evaluate", "translation", "--data", str(tmp_path / "missing")]) == 1
    assert "ATTNSERVE_DATA" in capsys.readouterr().err
    files = ["--source", str(write(tmp_path / "s", SOURCES)), "--reference", str(write(tmp_path / "r", REFERENCES[:2]))]
    assert main(["evaluate", "translation", *files]) == 1
    assert "3 lines" in capsys.readouterr().err
    assert main(["evaluate", "translation", *files[:3], str(tmp_path / "no-file")]) == 1
    assert "cannot read" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert main(["evaluate", "translation", *files]) == 1
    assert 'pip install "attnserve[evaluate]"' in capsys.readouterr().err
    assert not server.translation.requests


def test_without_the_extra_cli() -> None:
    code = "import sys; sys.modules['typer'] = None; from attnserve_client.cli import main; sys.exit(main(['models']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == 'attnserve: the command line needs typer: pip install "attnserve[cli]"\n'


def plugged(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, plugins.GROUP) for name, value in entries]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)


def greet(name: str, loud: bool = False) -> None:
    """Say hello."""
    if name == "nobody":
        raise typer.Exit(3)
    print(f"hello {name}{'!' if loud else ''}")


def test_command_of_another_package(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plugged(monkeypatch, ("greet", "greeter:greet"))
    monkeypatch.setattr(EntryPoint, "load", lambda self: greet)
    assert main(["greet", "you", "--loud"]) == 0
    assert capsys.readouterr().out == "hello you!\n"
    assert main(["greet", "nobody"]) == 3
    assert main(["greet", "--no-such-option"]) == 2
    capsys.readouterr()
    assert main(["greet", "--help"]) == 0
    assert "Say hello." in capsys.readouterr().out


def leave() -> None:
    """Say goodbye.

    To the
    world.

    And then
    end.
    """


def test_paragraphs_of_help_have_no_line_breaks_of_the_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    plugged(monkeypatch, ("leave", "leaver:leave"))
    monkeypatch.setattr(EntryPoint, "load", lambda self: leave)
    assert main(["leave", "--help"]) == 0
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert shown[3:8] == ["Say goodbye.", "", "To the world.", "", "And then end."]
    assert main(["evaluate", "translation", "--help"]) == 0
    assert "the number of pieces of the best answers" in capsys.readouterr().out


def test_listing_commands_imports_none(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plugged(monkeypatch, ("serve", "attnserve_server.cli:serve"), ("train", "attnserve_export.cli:train"))
    monkeypatch.setattr(EntryPoint, "load", lambda self: pytest.fail("imported"))
    assert main(["--help"]) == 0
    assert "Train a model." in capsys.readouterr().out


def test_listing_commands_imports_no_more_than_their_packages() -> None:
    heavy = '("attnserve_server.", "attnserve_export.", "torch", "onnxruntime")'
    code = f"import sys; from attnserve_client.cli import main; main(['--help']); print([m for m in sys.modules if m.startswith({heavy})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")
    assert "Train a model." in done.stdout


_IMPORT = "import a_package_nobody_has\n"


@pytest.mark.parametrize(
    "code", [_IMPORT, f"def run(thing: str = '') -> None:\n    {_IMPORT}"], ids=["when it is imported", "when it runs"]
)
@pytest.mark.parametrize(
    ("about", "cure"),
    [("COMMANDS = {'dance': ('Dance.', 'feet')}", 'pip install "attnserve[feet]"'), ("", "install a_package_nobody_has, which")],
)
def test_command_without_its_extra(
    code: str, about: str, cure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / f"dancing{len(about) + len(code)}"
    package.mkdir()
    (package / "__init__.py").write_text(about)
    (package / "command.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    plugged(monkeypatch, ("dance", f"{package.name}.command:run"))
    assert main(["dance", "--thing", "any"]) == 1
    error = capsys.readouterr().err
    assert "a_package_nobody_has" in error
    assert cure in error
    assert main(["--help"]) == 0
    assert ("Dance." if about else f"Added by {package.name}.") in capsys.readouterr().out


def test_every_command_of_this_project_names_its_extras() -> None:
    for entry in entry_points(group=plugins.GROUP):
        if entry.module.startswith("attnserve_"):
            line, extras = plugins.about(entry)
            assert not line.startswith("Added by")
            assert set(extras.split(",")) <= set(metadata("attnserve").get_all("Provides-Extra") or ())


def test_command_that_is_not_installed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plugged(monkeypatch, ("serve", "no_such_package.cli:serve"))
    assert main(["serve"]) == 1
    assert "not part of this installation" in capsys.readouterr().err


def test_bug_of_a_command_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged(monkeypatch, ("serve", "json:no_such_function"))
    with pytest.raises(AttributeError):
        main(["serve"])


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("attnserve_client.cli.translate.translate_lines", interrupt)
    assert main(["translate", "x"]) != 0


def test_progress_goes_to_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    for is_terminal in (False, True):
        monkeypatch.setattr(output, "Console", lambda stderr, it=is_terminal: Console(file=drawn, force_terminal=it, width=80))
        with output.progress("working", 2) as advance:
            advance()
            advance()
        assert bool(drawn.getvalue()) is is_terminal
    assert "working" in drawn.getvalue()


def test_report_keeps_markup_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.report(ToolError("what [red]is[/red] this"))
    assert capsys.readouterr().err == "error: what [red]is[/red] this\n"


def test_lines_are_closed_early(server: FakeServer) -> None:
    from attnserve_client import Client

    with Client(server.address) as client:
        answers = translate_lines(client, (f"line{number}" for number in range(1000)), max_in_flight=2)
        next(answers)
        answers.close()
    assert len(server.translation.requests) < 20


def test_app_has_the_documented_commands() -> None:
    names = {command.name for command in cli_app.build_app().registered_commands}
    assert {"translate", "models", "serve", "train", "export"} <= names
