# SPDX-License-Identifier: Apache-2.0
"""What the demo shows. A further task is a further function and a line in ``STEPS``; further models need nothing here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from attnserve_client.cli import attention
from attnserve_client.client import Client
from attnserve_client.errors import ToolError
from attnserve_client.types import ModelDetails, Task, TranslationDelta

_SENTENCES = {
    "en": (
        "A brown dog carries a tennis ball across the wet lawn.",
        "Two children are building a sand castle on the beach.",
        "A woman in a red coat is waiting for the bus in the rain.",
        "An old man plays the guitar on a bench in the park.",
        "A boy jumps into the lake. Two girls are watching him.\n\nA dog is sleeping under a tree.",
    ),
}
"""Of each source language, a text for each step below."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a step works with: the client and one model, where to print, and where to put files."""

    client: Client
    model: ModelDetails
    console: Console
    results: Path
    pictures: list[Path] = field(default_factory=list)

    @property
    def model_id(self) -> str:
        """The model's id."""
        return self.model.model.id


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is shown for every model of a task."""

    task: Task
    title: str
    run: Callable[[Stage], None]


def translate_with_attention(stage: Stage) -> None:
    """One call; its attention in the terminal and as a picture, where the model has any."""
    has_attention = stage.model.manifest.HasField("attention")
    text = _sentence(stage, 0)
    translation = stage.client.translate(text, model=stage.model_id, return_attention=has_attention)
    _print_pair(stage, text, translation.text)
    timings = translation.timings
    stage.console.print(Text(f"   {timings.total_s * 1e3:.1f} ms on the server", "dim"))
    if not has_attention:
        stage.console.print(Text("   this model has no attention", "dim"))
        return
    stage.console.print()
    attention.show(stage.console, translation)
    # The first picture has a name to rely on; those of further models say whose they are.
    path = stage.results / (f"demo-attention-{stage.model_id}.png" if stage.pictures else "demo-attention.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    attention.save(path, translation)
    stage.pictures.append(path)
    stage.console.print(Text(f"   drawn in {path}", "dim"))


def translate_with_beams(stage: Stage) -> None:
    """The three best of a beam of five, with their scores."""
    text = _sentence(stage, 1)
    translation = stage.client.translate(text, model=stage.model_id, beam_size=5, num_hypotheses=3)
    stage.console.print(Text(f"   {text}"))
    for hypothesis in translation.hypotheses:
        stage.console.print(Text.assemble((f" {hypothesis.score:7.3f}  ", "dim"), (hypothesis.text, "bold green")))


def translate_streamed(stage: Stage) -> None:
    """Pieces as they come, of greedy search, and of a beam as soon as all of it agrees on them."""
    text = _sentence(stage, 2)
    stage.console.print(Text(f"   {text}"))
    _print_stream(stage, text, beam_size=1)
    _print_stream(stage, text, beam_size=4)


def translate_sampled(stage: Stage) -> None:
    """Three draws; the seed makes them the same ones every time."""
    text = _sentence(stage, 3)
    stage.console.print(Text(f"   {text}"))
    sampled = stage.client.translate(text, model=stage.model_id, num_hypotheses=3, temperature=0.8, top_p=0.9, seed=7)
    for hypothesis in sampled.hypotheses:
        stage.console.print(Text.assemble((" → ", "dim"), (hypothesis.text, "bold green")))


def translate_paragraphs(stage: Stage) -> None:
    """A text of several sentences, each translated by itself; what stands between them stays."""
    text = _sentence(stage, 4)
    translation = stage.client.translate(text, model=stage.model_id, split_sentences=True, beam_size=5)
    stage.console.print(Text(_indented(text)))
    stage.console.print(Text(_indented(translation.text), "bold green"))


def _print_stream(stage: Stage, text: str, beam_size: int) -> None:
    """Prints the parts of one stream with dots between them.

    Raises:
        ToolError: there are none.
    """
    stage.console.print(Text(" → ", "dim"), end="")
    num_parts = 0
    for event in stage.client.translate_stream(text, model=stage.model_id, beam_size=beam_size):
        if isinstance(event, TranslationDelta) and event.text:
            stage.console.print(Text(event.text, "bold green"), Text("·", "dim"), end="", sep="")
            num_parts += 1
    stage.console.print(Text(f"  {num_parts} parts, beam {beam_size}", "dim"))
    if not num_parts:
        raise ToolError(f"{stage.model_id} streamed nothing")


STEPS = (
    Step(Task.TRANSLATION, "one call, with its alignment", translate_with_attention),
    Step(Task.TRANSLATION, "beam 5, the three best with their scores", translate_with_beams),
    Step(Task.TRANSLATION, "streamed, piece by piece", translate_streamed),
    Step(Task.TRANSLATION, "drawn at random, with a seed", translate_sampled),
    Step(Task.TRANSLATION, "two paragraphs, sentence by sentence", translate_paragraphs),
)


def _sentence(stage: Stage, index: int) -> str:
    language = stage.model.manifest.vocabulary.source_language.split("-")[0]
    if language not in _SENTENCES:
        raise ToolError(f"the demo has no sentences for {stage.model_id}, which reads {language or 'no language that it names'}")
    return _SENTENCES[language][index]


def _indented(text: str) -> str:
    return "\n".join(f"   {line}" if line else "" for line in text.splitlines())


def _print_pair(stage: Stage, source: str, target: str) -> None:
    stage.console.print(Text(f"   {source}"))
    stage.console.print(Text.assemble((" → ", "dim"), (target, "bold green")))
