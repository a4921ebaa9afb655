# SPDX-License-Identifier: Apache-2.0
"""A front, a model's task and a recorder with nothing behind them. A token is a letter: its code point; 0 is the end symbol.

A line is a sentence. The model answers a question mark with its unknown symbol, and its vocabulary lacks Greek letters.
"""

from __future__ import annotations

import asyncio
import re
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_server.engine.front.draining import Draining
from attnserve_server.engine.front.served_models import ServedModel
from attnserve_server.errors import Cancelled, ModelNotFound, Overloaded
from attnserve_server.request import (
    AttentionDetail,
    AttentionWeights,
    DecodeOptions,
    Done,
    FinishReason,
    Hypothesis,
    SequenceOutcome,
    SequencePayload,
    Terms,
    TokensProduced,
)
from tests.fakes.models import NUM_HEADS, NUM_LAYERS, make_model

END, UNKNOWN = 0, 1


@dataclass(frozen=True)
class Span:
    text: str
    begin: int
    end: int
    copied_from: int | None = None


@dataclass(frozen=True)
class Source:
    tokens: list[int]
    pieces: list[Span]


@dataclass(frozen=True)
class Sentence:
    text: str
    begin: int = 0
    gap: str = ""


@dataclass(frozen=True)
class Prefix:
    tokens: list[int]
    unknown: list[str]


def spans(text: str, *, has_end: bool) -> list[Span]:
    found = [Span(letter, index, index + 1) for index, letter in enumerate(text)]
    return [*found, Span("", len(text), len(text))] if has_end else found


class Renderer:
    """Holds the end symbol back until the end, so that every stream has a last part."""

    def __init__(self, translator: Translator, source: Sequence[Span]) -> None:
        self.task, self.source = translator, source
        self.tokens: list[int] = []
        self.copied: dict[int, int] = {}
        self.text, self.pieces = "", list[Span]()

    def push(self, tokens: Sequence[int], copied_from: Mapping[int, int]) -> tuple[str, list[Span]]:
        self.copied |= {len(self.tokens) + index: origin for index, origin in copied_from.items()}
        self.tokens += tokens
        return self._delta([token for token in self.tokens if token != END])

    def finish(self, tokens: Sequence[int], copied_from: Mapping[int, int]) -> tuple[str, list[Span]]:
        assert list(tokens[: len(self.tokens)]) == self.tokens
        self.copied |= copied_from
        return self._delta(list(tokens))

    def _delta(self, tokens: list[int]) -> tuple[str, list[Span]]:
        text, pieces = self.task.render(tokens, self.copied, self.source)
        new = text[len(self.text) :], pieces[len(self.pieces) :]
        self.text, self.pieces = text, pieces
        return new


class Translator:
    """Letters as pieces. It raises ``error``, if set; ``threads`` are the threads in which it ran."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.threads: list[str] = []

    def encode(self, text: str) -> Source:
        self.threads.append(threading.current_thread().name)
        if self.error is not None:
            raise self.error
        return Source([*map(ord, text), END], spans(text, has_end=True))

    def split(self, text: str) -> list[Sentence]:
        found, end = list[Sentence](), 0
        for line in re.finditer(r"[^\n]+", text):
            found.append(Sentence(line.group(), line.start(), text[end : line.start()] if found else ""))
            end = line.end()
        return found if len(found) > 1 else [Sentence(text)]

    def encode_prefix(self, text: str) -> Prefix:
        return Prefix(
            [ord(letter) for letter in text if letter != "\u200b"], [each.start() for each in re.finditer("[Α-ω]+", text)]
        )

    def render(
        self, tokens: list[int], copied_from: Mapping[int, int] | None = None, source: Sequence[Span] = ()
    ) -> tuple[str, list[Span]]:
        text, pieces = "", list[Span]()
        for index, token in enumerate(tokens):
            origin = (copied_from or {}).get(index) if token == UNKNOWN else None
            letter = source[origin].text if origin is not None else "" if token in (END, UNKNOWN) else chr(token)
            pieces.append(Span(letter, len(text), len(text) + len(letter), origin))
            text += letter
        return text, pieces

    def stream(self, source: Sequence[Span] = ()) -> Renderer:
        return Renderer(self, source)


def letters_model(*args: Any, loaded: Translator | None = None, **rest: Any) -> ServedModel:
    """A served model of letters; see :func:`make_model`."""
    return make_model(*args, loaded=loaded or Translator(), **rest)


class Ticket:
    """Answers with the source in capitals, unless its front is set to hang or to fail, or it is cancelled."""

    def __init__(self, front: Front, payload: SequencePayload, terms: Terms) -> None:
        source, options = payload.source, payload.options
        self.received_at = time.monotonic()
        self.tokens, self.options, self.terms = source, options, terms
        self._letters = source if isinstance(source, list) else [ord("x"), END]
        self.cancelled: list[str] = []
        self.cancelled_event = asyncio.Event()
        self._front = front
        self.accept: Any = None

    async def result(self) -> Done:
        await self._ended()
        if (error := self.error) is not None:
            raise error
        return finished(self._letters, self.options)

    async def deltas(self) -> AsyncIterator[TokensProduced]:
        if self.text not in self._front.sentence_errors:
            tokens, copied = answer_to(self._letters)
            for index, token in enumerate(tokens):
                yield TokensProduced(1, [token], {0: copied[index]} if index in copied else {})
        await self._ended()

    @property
    def text(self) -> str:
        return "".join(map(chr, self._letters[:-1]))

    @property
    def error(self) -> BaseException | None:
        if self.text in self._front.sentence_errors:
            return self._front.sentence_errors[self.text]
        return Cancelled("it was cancelled") if self.cancelled else self._front.result_error

    async def _ended(self) -> None:
        while self._front.hang and not self.cancelled and self.text not in self._front.sentence_errors:
            await asyncio.sleep(0.005)

    def cancel(self, reason: str) -> None:
        self.cancelled.append(reason)
        self.cancelled_event.set()


def answer_to(tokens: list[int]) -> tuple[list[int], dict[int, int]]:
    """The source in capitals; a question mark gives the unknown symbol, whose attention is on the question mark."""
    answer = [token if token == END else UNKNOWN if token == ord("?") else ord(chr(token).upper()) for token in tokens]
    return answer, {index: index for index, token in enumerate(answer) if token == UNKNOWN}


def finished(tokens: list[int], options: DecodeOptions) -> Done:
    now = time.monotonic()
    answer, copied = answer_to(tokens)
    attention = None
    if options.attention is not AttentionDetail.NONE:
        shape: tuple[int, ...] = (len(answer), len(tokens))
        if options.attention is AttentionDetail.ALL:
            shape = (len(answer), NUM_LAYERS, NUM_HEADS, len(tokens))
        attention = weights(shape)
    ranks = range(options.num_hypotheses)
    hypotheses = [Hypothesis(answer, -0.5 - rank, FinishReason.STOP, attention, copied) for rank in ranks]
    return Done(1, SequenceOutcome(hypotheses), now, 0.25, now + 0.25, now + 0.75, len(answer))


def weights(shape: tuple[int, ...]) -> AttentionWeights:
    """Weight number i is i / 1024, exact in float32."""
    count = 1
    for size in shape:
        count *= size
    return AttentionWeights(shape, struct.pack(f"={count}f", *(index / 1024 for index in range(count))))


class Front:
    """Accepts everything; raises ``submit_error`` and ``result_error``; ``hang`` holds answers back, but not errors of sentences."""

    def __init__(self, *models: ServedModel) -> None:
        self._models = list(models) or [letters_model()]
        self.draining = Draining()
        self.tickets: list[Ticket] = []
        self.submit_error: Exception | None = None
        self.result_error: BaseException | None = None
        self.sentence_errors: dict[str, Exception] = {}
        self.max_tickets = 1000
        self.hang = False
        self.submitted = asyncio.Event()

    def models(self) -> list[ServedModel]:
        return self._models

    def resolve(self, model: str, version: str, task: int = manifest_pb2.TASK_TRANSLATION) -> ServedModel:
        for each in self._models:
            if model in ("", each.id) and version in ("", each.version):
                return each
        raise ModelNotFound(f"no model {model}", field="model")

    def submit(self, model: ServedModel, payload: SequencePayload, terms: Terms) -> Ticket:
        if self.submit_error is not None:
            raise self.submit_error
        if len(self.tickets) >= self.max_tickets:
            raise Overloaded("full", retry_after_s=0.1)
        self.tickets.append(Ticket(self, payload, terms))
        self.submitted.set()
        return self.tickets[-1]


class Recorder:
    """Records the counted events, as (name, labels ...)."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, ...]] = []
        self.refusals: list[tuple[str, str, str]] = []
        self.num_unread_bytes: Callable[[], int] = lambda: 0

    def request_done(self, model: str, version: str, method: str, code: str, duration_s: float) -> None:
        assert 0 <= duration_s < 60
        self.counted.append(("done", model, version, method, code))

    def request_rejected(self, model: str, version: str, reason: str) -> None:
        self.counted.append(("rejected", model, version, reason))

    def request_refused(self, model: str, version: str, reason: str, duration_s: float) -> None:
        assert 0 <= duration_s < 60
        self.refusals.append((model, version, reason))

    def image_prepared(self, model: str, version: str, duration_s: float) -> None:
        assert 0 <= duration_s < 60

    def watch_answers(self, num_bytes: Callable[[], int]) -> None:
        self.num_unread_bytes = num_bytes

    def request_cancelled(self, model: str, version: str, reason: str) -> None:
        self.counted.append(("cancelled", model, version, reason))
