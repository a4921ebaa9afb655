# SPDX-License-Identifier: Apache-2.0
"""The text that a model writes: its pieces with their spans, whole or as they come. SentencePiece does the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sentencepiece

from attnserve_server.bundle.loader import Bundle


@dataclass(frozen=True, slots=True)
class Span:
    """A piece's own characters, and where they stand in the text (code points, end exclusive).

    ``copied_from`` is the index of the source piece whose characters these are, where an unknown symbol was produced.
    """

    text: str
    begin: int
    end: int
    copied_from: int | None = None


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of an answer as target tokens, without an end symbol; and what of its text the vocabulary lacks."""

    tokens: list[int]
    unknown: list[str]


class StreamRenderer:
    """Renders a growing token list: what was sent is never taken back, and joined it is what ``render`` says."""

    def __init__(self, task: TextTask, source: Sequence[Span]) -> None:
        self._task, self._source = task, source
        self._tokens, self._copied_from = list[int](), dict[int, int]()
        self._num_chars = self._num_pieces = 0

    def push(self, tokens: Sequence[int], copied_from: Mapping[int, int]) -> tuple[str, list[Span]]:
        """The characters and pieces that ``tokens`` add; ``copied_from`` is by index in them. The end symbol adds an empty piece.

        Bytes that may still become a character are kept back until they do, or something else follows.
        """
        begin = len(self._tokens)
        self._tokens += tokens
        self._copied_from |= {begin + index: source for index, source in copied_from.items()}
        return self._delta(self._tokens[: self._task.num_settled(self._tokens)])

    def finish(self, tokens: Sequence[int], copied_from: Mapping[int, int]) -> tuple[str, list[Span]]:
        """The characters and pieces that are missing of the whole answer, which begins with what was pushed."""
        self._copied_from |= copied_from
        return self._delta(list(tokens))

    def _delta(self, tokens: list[int]) -> tuple[str, list[Span]]:
        text, pieces = self._task.render(tokens, self._copied_from, self._source)
        delta, new = text[self._num_chars :], pieces[self._num_pieces :]
        self._num_chars, self._num_pieces = len(text), len(pieces)
        return delta, new


class TextTask:
    """What every task has that writes text: the target side of one model. Thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        vocabulary = bundle.manifest.vocabulary
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=bundle.read(vocabulary.sentencepiece_file))
        self._end_id, self._unknown_id = vocabulary.end_id, vocabulary.unknown_id
        ids = range(self._processor.get_piece_size())
        self._bytes = {each: int(self._processor.id_to_piece(each)[1:-1], 16) for each in ids if self._processor.is_byte(each)}

    def encode_prefix(self, text: str) -> Prefix:
        """Cuts the beginning of an answer into pieces."""
        found = self._processor.encode(text, return_type="proto").pieces
        unknown = [piece.surface.strip() or piece.piece for piece in found if piece.id == self._unknown_id]
        return Prefix([piece.id for piece in found], unknown)

    def render(
        self, tokens: list[int], copied_from: Mapping[int, int] | None = None, source: Sequence[Span] = ()
    ) -> tuple[str, list[Span]]:
        """Text and spans of a hypothesis; an end symbol gives an empty piece at the end.

        Args:
            tokens: target tokens.
            copied_from: for unknown symbols, by index in ``tokens``: the source piece whose characters stand there. One that is not
                named here gives an empty piece.
            source: the source's pieces.
        """
        inner = tokens[:-1] if tokens[-1:] == [self._end_id] else tokens
        pieces = self._processor.decode(inner, return_type="proto").pieces
        surfaces = [piece.surface for piece in pieces]
        copied = copied_from or {}
        if self._unknown_id in inner:
            surfaces = self._without_unknown(inner, surfaces, copied, source)
        spans = spans_of(surfaces, 0, {index: origin for index, origin in copied.items() if index < len(inner)})
        text = "".join(surfaces)
        if len(inner) < len(tokens):
            spans.append(Span("", len(text), len(text)))
        return text, spans

    def _without_unknown(
        self, tokens: list[int], surfaces: list[str], copied: Mapping[int, int], source: Sequence[Span]
    ) -> list[str]:
        """The surfaces with the source's characters, or none, in place of SentencePiece's own sign for what is unknown."""
        last, result = "", list[str]()  # the last character so far
        for index, (token, surface) in enumerate(zip(tokens, surfaces, strict=True)):
            if token == self._unknown_id:
                origin = copied.get(index)
                surface = "" if origin is None else source[origin].text
                if surface and origin is not None and begins_word(source, origin) and last and not last.isspace():
                    surface = " " + surface
            elif not last:
                surface = surface.lstrip(" ")  # a text begins with no space, as SentencePiece has it
            last = surface[-1:] or last
            result.append(surface)
        return result

    def num_settled(self, tokens: list[int]) -> int:
        """How many of the tokens give characters that no further token can change: all but bytes that are no character yet."""
        begin = len(tokens)
        while begin and tokens[begin - 1] in self._bytes:
            begin -= 1
        try:
            bytes(self._bytes[token] for token in tokens[begin:]).decode()
        except UnicodeDecodeError as error:
            return begin + error.start
        return len(tokens)

    def stream(self, source: Sequence[Span] = ()) -> StreamRenderer:
        """A renderer for one streamed answer to a source."""
        return StreamRenderer(self, source)


def begins_word(pieces: Sequence[Span], index: int) -> bool:
    """Whether white space or nothing stands before a piece's characters; pieces without any (of white space alone) do not count."""
    before = next((piece for piece in reversed(pieces[:index]) if piece.text), None)
    return before is None or before.end < pieces[index].begin


def spans_of(surfaces: list[str], begin: int = 0, copied_from: Mapping[int, int] | None = None) -> list[Span]:
    """Spans of consecutive surfaces, from ``begin`` on; leading white space belongs to no piece's own characters."""
    spans, origins = [], copied_from or {}
    for index, surface in enumerate(surfaces):
        own = surface.lstrip()
        end = begin + len(surface)
        spans.append(Span(own, end - len(own), end, origins.get(index)))
        begin = end
    return spans
