# SPDX-License-Identifier: Apache-2.0
"""Translation before and after the model: text to pieces with their spans, and pieces back to text. SentencePiece does the work."""

from __future__ import annotations

from dataclasses import dataclass

import sentencepiece

from attnserve_server.bundle.loader import Bundle


@dataclass(frozen=True, slots=True)
class Span:
    """A piece's own characters, and where they stand in the text (code points, end exclusive)."""

    text: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Source:
    """A text as the model reads it; the end symbol is the last token and the last piece."""

    tokens: list[int]
    pieces: list[Span]


class StreamRenderer:
    """Renders a growing token list: what was sent is never taken back."""

    def __init__(self, task: TranslationTask) -> None:
        self._task, self._tokens = task, list[int]()
        self._text, self._num_pieces = "", 0

    def push(self, tokens: list[int]) -> tuple[str, list[Span]]:
        """The characters and pieces that ``tokens`` add. The end symbol adds an empty piece."""
        self._tokens += tokens
        text, pieces = self._task.render(self._tokens)
        delta, new = text[len(self._text) :], pieces[self._num_pieces :]
        self._text, self._num_pieces = text, len(pieces)
        return delta, new


class TranslationTask:
    """The text side of one translation model. Thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        vocabulary = bundle.manifest.vocabulary
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=bundle.read(vocabulary.sentencepiece_file))
        self._end_id = vocabulary.end_id

    def encode(self, text: str) -> Source:
        """Cuts a text into pieces; spans are those of the text as it was given."""
        found = self._processor.encode(text, return_type="proto").pieces
        tokens = [piece.id for piece in found]
        skipped = len(text.encode()[: found[0].begin].decode()) if found else 0  # leading white space, which is in no piece
        spans = _spans([piece.surface for piece in found], skipped)
        return Source([*tokens, self._end_id], [*spans, Span("", len(text), len(text))])

    def render(self, tokens: list[int]) -> tuple[str, list[Span]]:
        """Text and spans of a hypothesis; an end symbol gives an empty piece at the end."""
        inner = tokens[:-1] if tokens[-1:] == [self._end_id] else tokens
        decoded = self._processor.decode(inner, return_type="proto")
        text: str = decoded.text
        spans = _spans([piece.surface for piece in decoded.pieces])
        if tokens and tokens[-1] == self._end_id:
            spans.append(Span("", len(text), len(text)))
        return text, spans

    def stream(self) -> StreamRenderer:
        """A renderer for one streamed answer."""
        return StreamRenderer(self)


def _spans(surfaces: list[str], begin: int = 0) -> list[Span]:
    """Spans of consecutive surfaces, from ``begin`` on; leading white space belongs to no piece's own characters."""
    spans = []
    for surface in surfaces:
        own = surface.lstrip()
        end = begin + len(surface)
        spans.append(Span(own, end - len(own), end))
        begin = end
    return spans
