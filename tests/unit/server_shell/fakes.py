# SPDX-License-Identifier: Apache-2.0
"""A front, a model and a recorder with nothing behind them. A token is a letter: its code point; 0 is the end symbol."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from attnserve.v1 import manifest_pb2
from attnserve_server.errors import ModelNotFound
from attnserve_server.request import (
    AttentionDetail,
    AttentionWeights,
    DecodeOptions,
    FinishReason,
    Hypothesis,
    RequestFinished,
    Terms,
    TokensProduced,
)

END = 0
NUM_LAYERS, NUM_HEADS = 2, 3


@dataclass(frozen=True)
class Span:
    text: str
    begin: int
    end: int


@dataclass(frozen=True)
class Source:
    tokens: list[int]
    pieces: list[Span]


def spans(text: str, *, has_end: bool) -> list[Span]:
    found = [Span(letter, index, index + 1) for index, letter in enumerate(text)]
    return [*found, Span("", len(text), len(text))] if has_end else found


class Renderer:
    def __init__(self) -> None:
        self.length = 0

    def push(self, tokens: list[int]) -> tuple[str, list[Span]]:
        text = "".join(chr(token) for token in tokens if token != END)
        begin, self.length = self.length, self.length + len(text)
        return text, [Span(letter, begin + index, begin + index + 1) for index, letter in enumerate(text)]


class Translator:
    """Letters as pieces. ``error`` is what it raises; ``threads`` are those that it ran in."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.threads: list[str] = []

    def encode(self, text: str) -> Source:
        self.threads.append(threading.current_thread().name)
        if self.error is not None:
            raise self.error
        return Source([*map(ord, text), END], spans(text, has_end=True))

    def render(self, tokens: list[int]) -> tuple[str, list[Span]]:
        text = "".join(chr(token) for token in tokens if token != END)
        return text, spans(text, has_end=tokens[-1:] == [END])

    def stream(self) -> Renderer:
        return Renderer()


@dataclass
class Model:
    id: str = "upper-en-de"
    version: str = "1"
    variant: str = "fp32"
    is_ready: bool = True
    max_source_tokens: int = 100
    max_target_tokens: int = 64
    max_beam_size: int = 5
    gives_attention: bool = True
    translator: Translator = field(default_factory=Translator)

    def __post_init__(self) -> None:
        self.manifest = manifest_pb2.Manifest(model_id=self.id, task=manifest_pb2.TASK_TRANSLATION, architecture="letters")
        if self.gives_attention:
            self.manifest.attention.output = "attention"


class Ticket:
    """Answers with the source in capitals, unless it is told to hang or to fail."""

    def __init__(self, front: Front, tokens: list[int], options: DecodeOptions, terms: Terms) -> None:
        self.received_at = time.monotonic()
        self.tokens, self.options, self.terms = tokens, options, terms
        self.cancelled: list[str] = []
        self.cancelled_event = asyncio.Event()
        self._front = front

    async def result(self) -> RequestFinished:
        await self._front.until_released()
        if self._front.result_error is not None:
            raise self._front.result_error
        return finished(self.tokens, self.options)

    async def deltas(self) -> AsyncIterator[TokensProduced]:
        for token in self.tokens:
            yield TokensProduced(1, [token if token == END else ord(chr(token).upper())])
        await self._front.until_released()

    def cancel(self, reason: str) -> None:
        self.cancelled.append(reason)
        self.cancelled_event.set()


def finished(tokens: list[int], options: DecodeOptions) -> RequestFinished:
    now = time.monotonic()
    answer = [token if token == END else ord(chr(token).upper()) for token in tokens]
    attention = None
    if options.attention is not AttentionDetail.NONE:
        shape: tuple[int, ...] = (len(answer), len(tokens))
        if options.attention is AttentionDetail.ALL:
            shape = (len(answer), NUM_LAYERS, NUM_HEADS, len(tokens))
        attention = weights(shape)
    hypotheses = [Hypothesis(answer, -0.5 - rank, FinishReason.STOP, attention) for rank in range(options.num_hypotheses)]
    return RequestFinished(1, hypotheses, now, 0.25, now + 0.25, now + 0.75, len(answer))


def weights(shape: tuple[int, ...]) -> AttentionWeights:
    """Weight number i is i / 1024, exact in float32."""
    count = 1
    for size in shape:
        count *= size
    return AttentionWeights(shape, struct.pack(f"={count}f", *(index / 1024 for index in range(count))))


class Front:
    """Takes everything; ``submit_error`` and ``result_error`` are raised, ``hang`` keeps answers back."""

    def __init__(self, *models: Model) -> None:
        self._models = list(models) or [Model()]
        self.is_draining = False
        self.tickets: list[Ticket] = []
        self.submit_error: Exception | None = None
        self.result_error: BaseException | None = None
        self.hang = False
        self.submitted = asyncio.Event()

    def models(self) -> list[Model]:
        return self._models

    def resolve(self, model: str, version: str) -> Model:
        for each in self._models:
            if model in ("", each.id) and version in ("", each.version):
                return each
        raise ModelNotFound(f"no model {model}", field="model")

    def submit(self, model: Model, tokens: list[int], options: DecodeOptions, terms: Terms) -> Ticket:
        if self.submit_error is not None:
            raise self.submit_error
        self.tickets.append(Ticket(self, tokens, options, terms))
        self.submitted.set()
        return self.tickets[-1]

    async def until_released(self) -> None:
        while self.hang:
            await asyncio.sleep(0.005)


class Recorder:
    """Notes what is counted, as (name, labels ...)."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, ...]] = []
        self.refusals: list[tuple[str, str, str]] = []

    def request_done(self, model: str, version: str, method: str, code: str, duration_s: float) -> None:
        assert 0 <= duration_s < 60
        self.counted.append(("done", model, version, method, code))

    def request_rejected(self, model: str, version: str, reason: str) -> None:
        self.counted.append(("rejected", model, version, reason))

    def request_refused(self, model: str, version: str, reason: str, duration_s: float) -> None:
        assert 0 <= duration_s < 60
        self.refusals.append((model, version, reason))

    def request_cancelled(self, model: str, version: str, reason: str) -> None:
        self.counted.append(("cancelled", model, version, reason))
