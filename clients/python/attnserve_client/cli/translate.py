# SPDX-License-Identifier: Apache-2.0
"""``attnserve translate``: translates texts from the arguments, or lines from standard input."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import attention as attention_output
from attnserve_client.cli import output
from attnserve_client.cli.options import AsJson, MaxInFlight, ModelId, Timeout, takes_keywords
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.lines import translate_lines
from attnserve_client.options import RequestKeywords


@takes_server
@takes_keywords()
def translate(
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="Texts, translated separately. None, or -: lines of standard input."),
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
    """Translate texts."""
    reads_lines = not texts or texts == ["-"]
    if attention is not None and (reads_lines or len(texts or ()) > 1):
        raise typer.BadParameter("a file for the attention needs exactly one TEXT", param_hint="--attention")
    if stream and (attention is not None or show_attention):
        raise typer.BadParameter("a stream has no attention", param_hint="--stream")
    keywords["return_attention"] = returns_attention = attention is not None or show_attention
    num_hypotheses = keywords.get("num_hypotheses") or 1
    lines: Iterable[str] = sys.stdin if reads_lines else texts or ()
    with server.client(timeout=timeout) as client:
        if stream:
            for text in (line.strip() for line in lines):
                events = client.translate_stream(text, model=model, **keywords) if text else ()
                output.print_stream(events, as_json=as_json)
            return
        # In a terminal, each answer must be printed before the next line is read.
        num_parallel = 1 if reads_lines and sys.stdin.isatty() else max_in_flight
        unit = "line" if reads_lines else "text" if len(texts or ()) > 1 else ""
        answers = translate_lines(client, lines, model=model, max_in_flight=num_parallel, unit=unit, **keywords)
        is_wanted = reads_lines and not sys.stdin.isatty()
        with contextlib.closing(answers), output.progress("translating", None, is_wanted=is_wanted) as advance:
            for answer in answers:
                if answer is None:
                    print("null" if as_json else "", flush=True)
                else:
                    output.print_answer(answer, num_hypotheses, as_json=as_json)
                    if returns_attention and not as_json:
                        attention_output.show(Console(), answer)
                    if attention is not None:
                        attention_output.save(attention, answer)
                advance()
