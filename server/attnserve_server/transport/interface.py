# SPDX-License-Identifier: Apache-2.0
"""What the transport needs of the rings below it, as protocols: the front, its models and tickets, and a recorder of metrics.

The engine ring implements them; tests put fakes in their place. Nothing here imports grpc.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from attnserve.v1 import manifest_pb2
from attnserve_server.request import ImageSource, Payload, SequenceDone, Terms, TokensProduced


class Span(Protocol):
    """A piece of text and where it stands, in code points; an end symbol is an empty span at the end."""

    @property
    def text(self) -> str:
        """The piece's own characters."""
        ...

    @property
    def begin(self) -> int:
        """Index of its first character."""
        ...

    @property
    def end(self) -> int:
        """Index after its last character."""
        ...

    @property
    def copied_from(self) -> int | None:
        """Index of the source piece whose characters these are, where the model produced its unknown symbol."""
        ...


class Sentence(Protocol):
    """A sentence of a source text."""

    @property
    def text(self) -> str:
        """Its characters; without white space around them, unless it is the only one."""
        ...

    @property
    def begin(self) -> int:
        """Index of its first character in the whole text."""
        ...

    @property
    def gap(self) -> str:
        """What stands between it and the sentence before; empty for the first."""
        ...


class Source(Protocol):
    """A tokenized source text."""

    @property
    def tokens(self) -> list[int]:
        """Token ids, the end symbol included."""
        ...

    @property
    def pieces(self) -> Sequence[Span]:
        """One span for each token."""
        ...


class Prefix(Protocol):
    """The text that an answer must begin with, tokenized."""

    @property
    def tokens(self) -> list[int]:
        """Target token ids, without an end symbol."""
        ...

    @property
    def unknown(self) -> list[str]:
        """What of the text the vocabulary lacks."""
        ...


class StreamRenderer(Protocol):
    """Turns the tokens of one streamed answer into text as they come; all its texts joined are those of ``render``."""

    def push(self, tokens: Sequence[int], copied_from: Mapping[int, int]) -> tuple[str, Sequence[Span]]:
        """Takes the next tokens (``copied_from`` by index in them); returns the text to append and the new pieces."""
        ...

    def finish(self, tokens: Sequence[int], copied_from: Mapping[int, int]) -> tuple[str, Sequence[Span]]:
        """Takes the whole answer, which begins with what was pushed; returns what is missing of it."""
        ...


class TextTask(Protocol):
    """The text that a model writes. Its methods are pure and may be called from any thread."""

    def encode_prefix(self, text: str) -> Prefix:
        """Tokenizes what an answer must begin with."""
        ...

    def render(
        self, tokens: list[int], copied_from: Mapping[int, int] | None = None, source: Sequence[Any] = ()
    ) -> tuple[str, Sequence[Span]]:
        """Returns the text and the pieces of a hypothesis; the end symbol is the last piece where it is in ``tokens``.

        Unknown symbols give the characters of the source pieces that ``copied_from`` names, and else nothing.
        """
        ...

    def stream(self, source: Sequence[Any] = ()) -> StreamRenderer:
        """Returns a renderer for one streamed answer to a source."""
        ...


class TranslationTask(TextTask, Protocol):
    """Both sides of a translation model."""

    def split(self, text: str) -> Sequence[Sentence]:
        """Returns the sentences of a source text: itself where there are no two."""
        ...

    def encode(self, text: str) -> Source:
        """Tokenizes a source text."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may have at most: characters of text, and what the models' ``read`` takes as limits of an image file."""

    max_text_chars: int
    image: Any


class Picture(Protocol):
    """An image that was decoded."""

    @property
    def source(self) -> ImageSource:
        """It as the model reads it."""
        ...

    @property
    def width(self) -> int:
        """Pixels, as it is seen."""
        ...

    @property
    def height(self) -> int:
        """Pixels, as it is seen."""
        ...


class CaptionTask(TextTask, Protocol):
    """Both sides of a captioning model."""

    def read(self, data: bytes, limits: Any) -> Picture:
        """Decodes an image file.

        Raises:
            InvalidRequest: it is beyond the limits, or none that can be decoded.
        """
        ...


class ServedModel(Protocol):
    """One version of one model, as the front serves it."""

    @property
    def id(self) -> str:
        """Model id, as in requests and metric labels."""
        ...

    @property
    def version(self) -> str:
        """A decimal number."""
        ...

    @property
    def variant(self) -> str:
        """Name of the variant that is served."""
        ...

    @property
    def manifest(self) -> manifest_pb2.Manifest:
        """The manifest of its bundle."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether at least one worker is warm."""
        ...

    @property
    def max_source_tokens(self) -> int:
        """Longest source, the end symbol not counted."""
        ...

    @property
    def max_target_tokens(self) -> int:
        """Longest answer, the end symbol not counted."""
        ...

    @property
    def gives_attention(self) -> bool:
        """Whether the variant that is served can return its attention."""
        ...

    @property
    def gives_scores(self) -> bool:
        """Whether the variant that is served scores all pieces at each step, and not only the best ones."""
        ...

    @property
    def max_beam_size(self) -> int:
        """Largest beam that the server accepts for it."""
        ...

    @property
    def task(self) -> Any:
        """What it adds around the engine: a :class:`TranslationTask` or :class:`CaptionTask`, as its manifest says."""
        ...


class Ticket(Protocol):
    """A request that the front has taken."""

    @property
    def received_at(self) -> float:
        """When it was taken into the queue, in seconds of the monotonic clock: the event QUEUED of ``metrics.intervals``."""
        ...

    async def result(self) -> SequenceDone:
        """Waits for the answer. The waiting task may be cancelled; :meth:`cancel` follows then.

        Raises:
            ServiceError: it will not come.
        """
        ...

    def deltas(self) -> AsyncIterator[TokensProduced]:
        """Yields the tokens of a streamed request as they become certain, and ends when it is finished or has failed."""
        ...

    def cancel(self, reason: str) -> None:
        """Frees the request's slots within one step; does nothing where it is finished or cancelled."""
        ...


ModelT = TypeVar("ModelT", bound=ServedModel)


class Front(Protocol[ModelT]):
    """The one queue per model, and admission. It counts what it refuses, cancels and answers itself."""

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused because the server stops."""
        ...

    def models(self) -> Sequence[ModelT]:
        """Returns all models and versions, in any order."""
        ...

    def resolve(self, model: str, version: str, task: int = ...) -> ModelT:
        """Returns the model; an empty id means the default or only one of a task, an empty version the newest.

        Raises:
            ModelNotFound: there is none.
        """
        ...

    def submit(self, model: ModelT, payload: Payload, terms: Terms) -> Ticket:
        """Takes a request.

        Raises:
            SequenceTooLong: the source has more tokens than the model takes.
            Overloaded: the queue is full.
            DeadlineUnreachable: the answer would clearly be too late.
            ShuttingDown: the server drains.
            ModelNotReady: no worker can answer now.
        """
        ...


Submit = Callable[[Any, Payload, Terms], Ticket]
"""As :meth:`Front.submit`."""

AnyFront = Front[Any]
"""A front with its own class of models."""


class RequestRecorder(Protocol):
    """Where the transport counts the RPCs (``metrics.prometheus.Metrics``); what happens inside the front, the front counts.

    ``model`` and ``version`` are empty where no model was found, so that what a client makes up never becomes a label.
    """

    def request_done(self, model: str, version: str, method: str, code: str, duration_s: float) -> None:
        """Counts one RPC, however it ended; ``code`` is its status' name."""
        ...

    def request_rejected(self, model: str, version: str, reason: str) -> None:
        """Counts one RPC that was refused before the front was asked; ``reason`` is the error's, in lower case."""
        ...

    def request_refused(self, model: str, version: str, reason: str, duration_s: float) -> None:
        """Takes the time of an RPC that was refused before anything was done for it, by the front or before."""
        ...

    def image_prepared(self, model: str, version: str, duration_s: float) -> None:
        """Takes the time that an RPC with an image took before the front was asked."""
        ...

    def request_cancelled(self, model: str, version: str, reason: str) -> None:
        """Counts one RPC that was given up before the front was asked: "client", "deadline" or "shutdown"."""
        ...
