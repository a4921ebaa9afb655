# SPDX-License-Identifier: Apache-2.0
"""The interface of a task towards the data plane, and of a served model towards a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.kinds import Payload
from attnserve_server.request import Done
from attnserve_server.tasks.clips.wire import ClipLimits
from attnserve_server.tasks.images import ImageLimits


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a request: characters of text, those of an image file, and those of a clip."""

    max_text_chars: int
    image: ImageLimits
    clip: ClipLimits = field(default_factory=ClipLimits)


class Model(Protocol):
    """A served model version."""

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
        """Maximum source tokens, without the end symbol."""
        ...

    @property
    def max_target_tokens(self) -> int:
        """Maximum target tokens, without the end symbol."""
        ...

    @property
    def max_beam_size(self) -> int:
        """Maximum beam size that the server accepts."""
        ...

    @property
    def gives_attention(self) -> bool:
        """Whether the served variant can return attention."""
        ...

    @property
    def gives_scores(self) -> bool:
        """Whether the served variant scores all pieces at each step, not only the best ones."""
        ...

    @property
    def task(self) -> Any:
        """The object that its task loaded for it (:meth:`Task.load`), such as a tokenizer."""
        ...


class Prepared(Protocol):
    """A request that is ready for the engine; each task has its own type."""

    @property
    def payloads(self) -> Sequence[Payload]:
        """One payload per request to the engine; if one fails, all fail."""
        ...


class AnswerStream(Protocol):
    """Converts the engine's parts to the parts of one streamed answer, payload by payload."""

    def begin(self, index: int) -> None:
        """Starts a payload; the following parts belong to it."""
        ...

    def push(self, part: Any) -> Any | None:
        """Takes a part from the engine; returns the part to send, or None."""
        ...

    def finish(self, done: Done[Any]) -> Any | None:
        """Takes the payload's answer; returns the rest to send, or None."""
        ...


class Task(Protocol):
    """A task's work before and after the engine. Stateless; :meth:`prepare` may run on any thread."""

    def load(self, bundle: Bundle) -> Any:
        """Loads the task's object for one model, :attr:`Model.task`."""
        ...

    def check(self, asked: Any, model: Model, limits: Limits) -> Any:
        """Makes all checks that need no tokenizing or decoding; returns the checked options for :meth:`prepare`.

        Raises:
            InvalidRequest: names the first invalid field.
        """
        ...

    def effort(self, asked: Any) -> int | None:
        """Returns the number of characters that :meth:`prepare` processes; None if it must never run on the event loop."""
        ...

    def prepare(self, asked: Any, checked: Any, model: Model, limits: Limits) -> Prepared:
        """Tokenizes or decodes the request into payloads.

        Raises:
            InvalidRequest: it is invalid or too long.
        """
        ...

    def render(self, prepared: Any, answers: Sequence[Done[Any]]) -> Any:
        """Makes the answer from the answers to all payloads.

        Raises:
            InvalidRequest: the answer is too large.
        """
        ...

    def stream(self, prepared: Any) -> AnswerStream:
        """Makes the converter of one streamed answer."""
        ...
