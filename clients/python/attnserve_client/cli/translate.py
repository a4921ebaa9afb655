# SPDX-License-Identifier: Apache-2.0
"""``attnserve translate``: translates texts from the arguments, or lines from standard input."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import attention as attention_output
from attnserve_client.cli import output, streams
from attnserve_client.cli.options import AsJson, MaxInFlight, ModelId, Timeout, takes_keywords
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.client import Client
from attnserve_client.errors import AttnserveError
from attnserve_client.lines import translate_lines
from attnserve_client.options import RequestKeywords
from attnserve_client.types import Translation


@takes_server
@takes_keywords()
def translate(
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Texts, translated separately. None, or -: lines of standard input."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    model: ModelId = "",
    *,
    keywords: RequestKeywords,
    attention: Annotated[
        Path | None, typer.Option("--attention", metavar="FILE.png", help="Draw the attention into a file, and show it.")
    ] = None,
    show_attention: Annotated[bool, typer.Option("--show-attention", help="Show the attention in the terminal.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print pieces as they arrive.")] = False,
    as_json: AsJson = False,
    max_in_flight: MaxInFlight = 64,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Translate texts.

    With several texts, an error is reported, its text's line is empty, and the exit code is 1 at the end.
    """
    reads_lines = not texts or texts == ["-"]
    if attention is not None and (reads_lines or len(texts or ()) > 1):
        raise typer.BadParameter("a file for the attention needs exactly one TEXT", param_hint="--attention")
    if stream and (attention is not None or show_attention):
        raise typer.BadParameter("a stream has no attention", param_hint="--stream")
    output.check_file(attention, "--attention")
    keywords["return_attention"] = attention is not None or show_attention
    num_hypotheses = keywords.get("num_hypotheses") or 1
    lines: Iterable[str] = streams.input_lines() if reads_lines else texts or ()
    is_single = not reads_lines and len(texts or ()) == 1
    output_of = _Output(output.Failures(is_single=is_single), num_hypotheses, as_json, attention, show_attention)
    if is_single:
        _hint(texts[0] if texts else "")
    unit = "line" if reads_lines else "" if is_single else "text"
    with server.client(timeout=timeout) as client:
        if stream:
            num_texts = output_of.streams(client, lines, unit, model, keywords)
        else:
            # In a terminal, each answer must be printed before the next line is read.
            num_parallel = 1 if reads_lines and sys.stdin.isatty() else max_in_flight
            answers = translate_lines(client, lines, model=model, max_in_flight=num_parallel, unit=unit, **keywords)
            num_texts = output_of.answers(answers, has_bar=reads_lines and not sys.stdin.isatty())
    output_of.failures.end(num_texts, f"{unit}s could not be translated")


def _hint(text: str) -> None:
    """Remarks on a text that is the path of a file, which is translated as any other."""
    with contextlib.suppress(OSError, ValueError):  # the text is no path
        if Path(text).is_file():
            output.note(f"lines of a file: attnserve translate < {shlex.quote(text)}")


@dataclass(frozen=True, slots=True)
class _Output:
    """Prints the answers to texts, or their errors in their places."""

    failures: output.Failures
    num_hypotheses: int
    as_json: bool
    attention: Path | None
    """File to draw into."""
    shows_attention: bool

    def answers(self, answers: Generator[Translation | AttnserveError | None, None, None], *, has_bar: bool) -> int:
        """Prints whole answers as they arrive; returns their number."""
        num_answers = 0
        with contextlib.closing(answers), output.progress("translating", None, is_wanted=has_bar) as advance:
            for answer in answers:
                num_answers += 1
                if answer is None:
                    print("null" if self.as_json else "", flush=True)
                elif isinstance(answer, AttnserveError):
                    self._failed(answer)
                else:
                    self._answer(answer)
                advance()
        return num_answers

    def streams(self, client: Client, lines: Iterable[str], unit: str, model: str, keywords: RequestKeywords) -> int:
        """Prints the pieces of one text after the other; returns their number."""
        number = 0
        for number, text in enumerate((line.strip() for line in lines), 1):
            try:
                events = client.translate_stream(text, model=model, **keywords) if text else ()
                output.print_stream(events, as_json=self.as_json)
            except AttnserveError as error:
                if unit:
                    error.add_note(f"{unit} {number}")
                self._failed(error)
        return number

    def _answer(self, answer: Translation) -> None:
        output.print_answer(answer, self.num_hypotheses, as_json=self.as_json)
        if not self.as_json and (self.shows_attention or self.attention is not None):
            attention_output.show(Console(), answer)
        if self.attention is not None:
            attention_output.save(self.attention, answer)

    def _failed(self, error: AttnserveError) -> None:
        self.failures.report(error)
        output.print_failed(error, as_json=self.as_json)
