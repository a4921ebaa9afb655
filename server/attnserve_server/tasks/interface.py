# SPDX-License-Identifier: Apache-2.0
"""What a task is to the data plane, and what a task needs of a served model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.kinds import Payload
from attnserve_server.request import Done
from attnserve_server.tasks.images import ImageLimits


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may have at most: characters of text, and what an image file may have."""

    max_text_chars: int
    image: ImageLimits


class Model(Protocol):
    """One version of one model, as it is served."""

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
    def max_beam_size(self) -> int:
        """Largest beam that the server accepts for it."""
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
    def task(self) -> Any:
        """What its task loaded for it (:meth:`Task.load`): a tokenizer, or the like."""
        ...


class Prepared(Protocol):
    """A request that is ready for the engine; each task has its own kind of it."""

    @property
    def payloads(self) -> Sequence[Payload]:
        """One for each request to the engine; they are answered and fail together."""
        ...


class AnswerStream(Protocol):
    """Makes the parts of one streamed answer; it is given the parts of the engine, payload by payload."""

    def begin(self, index: int) -> None:
        """What follows is of this payload."""
        ...

    def push(self, part: Any) -> Any | None:
        """A part of the engine's; returns what is to be sent for it, if anything is."""
        ...

    def finish(self, done: Done[Any]) -> Any | None:
        """The payload's answer; returns what is missing of it, if anything is."""
        ...


class Task(Protocol):
    """What a task does around the engine. Stateless; :meth:`prepare` may run on any thread."""

    def load(self, bundle: Bundle) -> Any:
        """What one model of the task needs for it, as :attr:`Model.task`."""
        ...

    def check(self, asked: Any, model: Model, limits: Limits) -> Any:
        """Checks everything for which nothing has to be read, and returns it as :meth:`prepare` takes it.

        Raises:
            InvalidRequest: names the first field that is wrong.
        """
        ...

    def effort(self, asked: Any) -> int | None:
        """How much :meth:`prepare` has to read, in characters; None where it is never to hold up the event loop."""
        ...

    def prepare(self, asked: Any, checked: Any, model: Model, limits: Limits) -> Prepared:
        """Reads the request.

        Raises:
            InvalidRequest: it cannot be read, or is too long.
        """
        ...

    def render(self, prepared: Any, answers: Sequence[Done[Any]]) -> Any:
        """The whole answer, from those to all payloads.

        Raises:
            InvalidRequest: it is too large.
        """
        ...

    def stream(self, prepared: Any) -> AnswerStream:
        """For one streamed answer."""
        ...
