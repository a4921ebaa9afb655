# SPDX-License-Identifier: Apache-2.0
"""Translation before and after the model: text to pieces with their spans, and pieces back to text."""

from __future__ import annotations

from dataclasses import dataclass

from attnserve_server.bundle.loader import Bundle
from attnserve_server.tasks import sentences
from attnserve_server.tasks.sentences import Sentence
from attnserve_server.tasks.text import Span, TextTask, spans_of


@dataclass(frozen=True, slots=True)
class Source:
    """A text as the model reads it; the end symbol is the last token and the last piece."""

    tokens: list[int]
    pieces: list[Span]


class TranslationTask(TextTask):
    """Both sides of one translation model. Thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self._language = bundle.manifest.vocabulary.source_language

    def split(self, text: str) -> list[Sentence]:
        """The sentences of a source text, see ``sentences.split``."""
        return sentences.split(text, self._language)

    def encode(self, text: str) -> Source:
        """Cuts a text into pieces; spans are those of the text as it was given."""
        found = self._processor.encode(text, return_type="proto").pieces
        tokens = [piece.id for piece in found]
        skipped = len(text.encode()[: found[0].begin].decode()) if found else 0  # leading white space, which is in no piece
        spans = spans_of([piece.surface for piece in found], skipped)
        return Source([*tokens, self._end_id], [*spans, Span("", len(text), len(text))])
