# SPDX-License-Identifier: Apache-2.0
"""``attnserve translate``: texts from the arguments, or lines from standard input."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from attnserve_client.channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from attnserve_client.cli import attention as attention_output
from attnserve_client.cli import output
from attnserve_client.cli.options import (
    Address,
    AsJson,
    BeamSize,
    CoveragePenalty,
    LengthPenalty,
    MaxInFlight,
    MaxTokens,
    MinTokens,
    ModelId,
    NoRepeatNgram,
    NumHypotheses,
    Prefix,
    Priority,
    RepetitionPenalty,
    Sample,
    Seed,
    SplitSentences,
    Temperature,
    Timeout,
    TopK,
    TopP,
)
from attnserve_client.client import Client
from attnserve_client.lines import translate_lines
from attnserve_client.options import RequestKeywords
from attnserve_client.types import Translation, TranslationDelta


def translate(
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="Each is translated by itself. None, or -: lines of standard input."),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    model: ModelId = "",
    beam_size: BeamSize = None,
    num_hypotheses: NumHypotheses = None,
    length_penalty: LengthPenalty = None,
    coverage_penalty: CoveragePenalty = None,
    max_tokens: MaxTokens = None,
    min_tokens: MinTokens = None,
    no_repeat_ngram: NoRepeatNgram = None,
    repetition_penalty: RepetitionPenalty = None,
    sample: Sample = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    prefix: Prefix = None,
    split_sentences: SplitSentences = False,
    priority: Priority = 0,
    attention: Annotated[
        Path | None, typer.Option("--attention", metavar="FILE.png", help="Draw the attention into a file, and show it.")
    ] = None,
    show_attention: Annotated[bool, typer.Option("--show-attention", help="Show the attention in the terminal.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print pieces as they come.")] = False,
    as_json: AsJson = False,
    max_in_flight: MaxInFlight = 64,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Translate texts."""
    reads_lines = not texts or texts == ["-"]
    if attention is not None and (reads_lines or len(texts or ()) > 1):
        raise typer.BadParameter("a file for the attention goes with exactly one TEXT", param_hint="--attention")
    if stream and (attention is not None or show_attention):
        raise typer.BadParameter("a stream shows no attention", param_hint="--stream")
    if sample and temperature is None:
        temperature = 1.0
    keywords: RequestKeywords = {
        "beam_size": beam_size,
        "num_hypotheses": num_hypotheses,
        "length_penalty": length_penalty,
        "coverage_penalty": coverage_penalty,
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        "no_repeat_ngram_size": no_repeat_ngram,
        "repetition_penalty": repetition_penalty,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "prefix": prefix,
        "return_attention": attention is not None or show_attention,
        "split_sentences": split_sentences,
        "priority": priority,
    }
    lines: Iterable[str] = sys.stdin if reads_lines else texts or ()
    with Client(address, timeout=timeout) as client:
        if stream:
            _print_streams(client, lines, model, keywords, as_json)
            return
        # Somebody who types wants each answer before the next line.
        num_parallel = 1 if reads_lines and sys.stdin.isatty() else max_in_flight
        unit = "line" if reads_lines else "text" if len(texts or ()) > 1 else ""
        answers = translate_lines(client, lines, model=model, max_in_flight=num_parallel, unit=unit, **keywords)
        is_wanted = reads_lines and not sys.stdin.isatty()
        with contextlib.closing(answers), output.progress("translating", None, is_wanted=is_wanted) as advance:
            for answer in answers:
                _print_answer(answer, num_hypotheses or 1, as_json)
                if answer is not None and not as_json and keywords["return_attention"]:
                    attention_output.show(Console(), answer)
                if answer is not None and attention is not None:
                    attention_output.save(attention, answer)
                advance()


def _print_answer(answer: Translation | None, num_hypotheses: int, as_json: bool) -> None:
    if as_json:
        output.print_json(None if answer is None else output.json_of(answer))
    elif answer is None or num_hypotheses == 1:
        print("" if answer is None else answer.text, flush=True)
    else:
        for rank, hypothesis in enumerate(answer.hypotheses, 1):
            print(f"{rank}\t{hypothesis.score:.4f}\t{hypothesis.text}", flush=True)


def _print_streams(client: Client, lines: Iterable[str], model: str, keywords: RequestKeywords, as_json: bool) -> None:
    """Streams one text after the other."""
    for line in lines:
        text = line.strip()
        sent = ""
        for event in client.translate_stream(text, model=model, **keywords) if text else ():
            if as_json:
                kind = "delta" if isinstance(event, TranslationDelta) else "result"
                output.print_json({kind: output.json_of(event)})
            elif isinstance(event, TranslationDelta):
                sent += event.text
                print(event.text, end="", flush=True)
            elif not sent:  # from a server that sends beams as a whole
                print(event.text, end="", flush=True)
        if not as_json:
            print(flush=True)
