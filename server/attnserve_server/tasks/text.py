# SPDX-License-Identifier: Apache-2.0
"""Renders target tokens as text and pieces with spans, whole or streamed, by SentencePiece."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import sentencepiece

from attnserve_server.bundle.loader import Bundle
from attnserve_server.errors import BundleError


class Span(msgspec.Struct, frozen=True, gc=False):
    """A piece's characters and their position in the text (code points, end exclusive).

    ``copied_from`` is the index of the source piece whose characters replace an unknown symbol; None for other pieces.
    """

    text: str
    begin: int
    end: int
    copied_from: int | None = None


@dataclass(frozen=True, slots=True)
class Prefix:
    """A forced beginning of an answer: target tokens without an end symbol, and where substrings outside the vocabulary begin."""

    tokens: list[int]
    unknown: list[int]
    """Indices of characters (code points)."""


class StreamRenderer:
    """Renders a growing token list. Sent text is never revised; the concatenated output equals that of ``render``."""

    def __init__(self, task: TextTask, source: Sequence[Span]) -> None:
        self._task, self._source = task, source
        self._tokens, self._copied_from = list[int](), dict[int, int]()
        self.text, self.pieces = "", list[Span]()
        """What was returned so far."""

    def push(self, tokens: Sequence[int], copied_from: Mapping[int, int]) -> tuple[str, list[Span]]:
        """Returns the characters and pieces that ``tokens`` add; ``copied_from`` is indexed within them. The end symbol is empty.

        Byte tokens of an incomplete character are held back until it is complete, or another token follows.
        """
        begin = len(self._tokens)
        self._tokens += tokens
        self._copied_from |= {begin + index: source for index, source in copied_from.items()}
        return self._delta(self._tokens[: self._task.num_settled(self._tokens)])

    def finish(self, tokens: Sequence[int], copied_from: Mapping[int, int]) -> tuple[str, list[Span]]:
        """Returns the remaining characters and pieces of the whole answer, which begins with the pushed tokens."""
        self._copied_from |= copied_from
        return self._delta(list(tokens))

    def _delta(self, tokens: list[int]) -> tuple[str, list[Span]]:
        if len(tokens) == len(self.pieces):
            return "", []
        text, new = self._task.render_rest(tokens, self.text, len(self.pieces), self._copied_from, self._source)
        self.text += text
        self.pieces += new
        return text, new


class TextTask:
    """The target side of one model, for tasks that generate text. Thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        vocabulary = bundle.manifest.vocabulary
        self._processor = _processor(bundle, vocabulary.sentencepiece_file)
        self._end_id, self._unknown_id = vocabulary.end_id, vocabulary.unknown_id
        ids = range(self._processor.get_piece_size())
        self._bytes = {each: int(self._processor.id_to_piece(each)[1:-1], 16) for each in ids if self._processor.is_byte(each)}

    def encode_prefix(self, text: str) -> Prefix:
        """Tokenizes the forced beginning of an answer."""
        found = self._processor.encode(text, return_type="proto").pieces
        data = text.encode()  # SentencePiece counts bytes here
        begins = [piece.begin + len(piece.surface) - len(piece.surface.lstrip()) for piece in found if piece.id == self._unknown_id]
        unknown = [len(data[:begin].decode(errors="ignore")) for begin in begins]
        return Prefix([piece.id for piece in found], unknown)

    def render(
        self, tokens: list[int], copied_from: Mapping[int, int] | None = None, source: Sequence[Span] = ()
    ) -> tuple[str, list[Span]]:
        """Returns text and spans of a hypothesis; an end symbol gives an empty piece at the end.

        Args:
            tokens: target tokens.
            copied_from: maps the index in ``tokens`` of an unknown symbol to the source piece that replaces it; an unknown symbol
                without an entry gives an empty piece.
            source: the source's pieces.
        """
        return self.render_rest(tokens, "", 0, copied_from or {}, source)

    def render_rest(
        self, tokens: list[int], known: str, num_known: int, copied_from: Mapping[int, int], source: Sequence[Span]
    ) -> tuple[str, list[Span]]:
        """Returns what follows the text ``known`` of the first ``num_known`` tokens; arguments and values as of :meth:`render`."""
        inner = tokens[:-1] if tokens[-1:] == [self._end_id] else tokens
        pieces = self._processor.decode(inner, return_type="proto").pieces
        if self._unknown_id in inner:
            surfaces = self._without_unknown(inner, [piece.surface for piece in pieces], copied_from, source)[num_known:]
            origins = {index - num_known: each for index, each in copied_from.items() if num_known <= index < len(inner)}
        else:
            surfaces, origins = [piece.surface for piece in pieces[num_known:]], {}
        spans, text = spans_of(surfaces, len(known), origins), "".join(surfaces)
        if len(inner) < len(tokens):
            end = len(known) + len(text)
            spans.append(Span("", end, end))
        return text, spans

    def _without_unknown(
        self, tokens: list[int], surfaces: list[str], copied: Mapping[int, int], source: Sequence[Span]
    ) -> list[str]:
        """Replaces SentencePiece's surface of unknown symbols by the source's characters, or by nothing."""
        last, result = "", list[str]()  # the last character so far
        for index, (token, surface) in enumerate(zip(tokens, surfaces, strict=True)):
            if token == self._unknown_id:
                origin = copied.get(index)
                surface = "" if origin is None else source[origin].text
                if surface and origin is not None and begins_word(source, origin) and last and not last.isspace():
                    surface = " " + surface
            elif not last:
                surface = surface.lstrip(" ")  # SentencePiece strips the leading space of a text
            last = surface[-1:] or last
            result.append(surface)
        return result

    def num_settled(self, tokens: list[int]) -> int:
        """Returns how many tokens have final characters: all but trailing byte tokens of an incomplete character."""
        begin = len(tokens)
        while begin and tokens[begin - 1] in self._bytes:
            begin -= 1
        try:
            bytes(self._bytes[token] for token in tokens[begin:]).decode()
        except UnicodeDecodeError as error:
            return begin + error.start
        return len(tokens)

    def stream(self, source: Sequence[Span] = ()) -> StreamRenderer:
        """Makes a renderer for one streamed answer to a source."""
        return StreamRenderer(self, source)


def _processor(bundle: Bundle, name: str) -> sentencepiece.SentencePieceProcessor:
    data = bundle.read(name)
    try:
        if data:  # an empty model is accepted, and fails when it is used
            return sentencepiece.SentencePieceProcessor(model_proto=data)
        problem = "it is empty"
    except RuntimeError as error:
        problem = str(error)
    raise BundleError(str(bundle.folder), [f"{name} is not a SentencePiece model: {problem}"])


def begins_word(pieces: Sequence[Span], index: int) -> bool:
    """Whether a piece follows white space or begins the text; preceding pieces of white space alone are skipped."""
    before = next((piece for piece in reversed(pieces[:index]) if piece.text), None)
    return before is None or before.end < pieces[index].begin


def spans_of(surfaces: Iterable[str], begin: int = 0, copied_from: Mapping[int, int] | None = None) -> list[Span]:
    """Returns the spans of consecutive surfaces, starting at ``begin``; a span excludes leading white space."""
    spans = []
    for surface in surfaces:
        own = surface.lstrip()
        end = begin + len(surface)
        spans.append(Span(own, end - len(own), end))
        begin = end
    for index, origin in copied_from.items() if copied_from else ():
        spans[index] = msgspec.structs.replace(spans[index], copied_from=origin)
    return spans
