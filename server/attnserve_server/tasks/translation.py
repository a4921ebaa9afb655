# SPDX-License-Identifier: Apache-2.0
"""The translation task: tokenizes text before the engine, renders text after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnserve_server.bundle.loader import Bundle
from attnserve_server.request import DecodeOptions, SequenceDone, SequencePayload
from attnserve_server.tasks import joining, options, sentences
from attnserve_server.tasks.answers import Translation
from attnserve_server.tasks.interface import Limits, Model
from attnserve_server.tasks.joining import Part
from attnserve_server.tasks.options import AskedOptions
from attnserve_server.tasks.rendering import TextPrepared, TextStream, hypotheses_of, source_pieces
from attnserve_server.tasks.sentences import Sentence
from attnserve_server.tasks.text import Span, TextTask, spans_of


@dataclass(frozen=True, slots=True)
class AskedTranslation:
    """A client's request: a text and decode options."""

    text: str
    options: AskedOptions
    is_split: bool = False
    """Whether its sentences are translated separately."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A tokenized text; the end symbol is the last token and the last piece."""

    tokens: list[int]
    pieces: list[Span]


class TranslationTask(TextTask):
    """Tokenizes and renders text for one translation model. Thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self._language = bundle.manifest.vocabulary.source_language

    def split(self, text: str) -> list[Sentence]:
        """Splits a source text into sentences, see ``sentences.split``."""
        return sentences.split(text, self._language)

    def encode(self, text: str) -> TokenizedText:
        """Tokenizes a text; spans refer to the original text."""
        found = self._processor.encode(text, return_type="proto").pieces
        tokens = [piece.id for piece in found]
        begin = found[0].begin if found else 0  # leading white space belongs to no piece
        spans = spans_of([piece.surface for piece in found], len(text.encode()[:begin].decode()) if begin else 0)
        tokens.append(self._end_id)
        spans.append(Span("", len(text), len(text)))
        return TokenizedText(tokens, spans)


class TranslationWork:
    """A :class:`~attnserve_server.tasks.interface.Task`: text to text, with one payload per sentence if the text is split."""

    def load(self, bundle: Bundle) -> TranslationTask:
        """See :class:`Task`."""
        return TranslationTask(bundle)

    def check(self, asked: AskedTranslation, model: Model, limits: Limits) -> DecodeOptions:
        """See :class:`Task`."""
        text = options.check_text(asked.text, limits.max_text_chars)
        options.check_prefix(asked.options.prefix, limits.max_text_chars - len(text))
        return options.decode_options(asked.options, model)

    def effort(self, asked: AskedTranslation) -> int:
        """See :class:`Task`."""
        return len(asked.text) + len(asked.options.prefix)

    def prepare(self, asked: AskedTranslation, checked: DecodeOptions, model: Model, limits: Limits) -> TextPrepared:
        """See :class:`Task`."""
        parts = _parts(asked, model)
        if asked.options.prefix:
            checked = options.with_prefix(checked, model.task.encode_prefix(asked.options.prefix), model)
        joining.check_attention(parts, checked, model)
        options.check_lengths([part.source for part in parts], model)
        payloads = [SequencePayload(part.source.tokens, options.of_sentence(checked, index)) for index, part in enumerate(parts)]
        return TextPrepared(model, parts, checked, payloads)

    def render(self, prepared: TextPrepared, answers: Sequence[SequenceDone]) -> Translation:
        """See :class:`Task`."""
        return Translation(hypotheses_of(prepared, answers), source_pieces(prepared.parts))

    def stream(self, prepared: TextPrepared) -> TextStream:
        """See :class:`Task`."""
        return TextStream(prepared)


def _parts(asked: AskedTranslation, model: Model) -> list[Part]:
    """Tokenizes the text or its sentences; a sentence in which the tokenizer finds nothing belongs to the gap before the next one.

    Raises:
        InvalidRequest: there are too many sentences, or the tokenizer finds nothing in any.
    """
    split = options.check_sentences(model.task.split(asked.text)) if asked.is_split else [Sentence(asked.text)]
    parts, gap = list[Part](), ""
    for sentence in split:
        source, gap = model.task.encode(sentence.text), gap + sentence.gap
        if len(source.tokens) == 1:  # the end symbol
            gap += sentence.text
        else:
            parts.append(Part(source, sentence.begin, gap))
            gap = ""
    if not parts:
        raise options.no_text()
    return parts
