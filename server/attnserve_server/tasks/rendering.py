# SPDX-License-Identifier: Apache-2.0
"""Renders an engine's hypotheses as text with pieces, whole or streamed. Runs on the event loop, so it must be fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from attnserve_server.request import DecodeOptions, Hypothesis, SequenceDone, SequencePayload, TokensProduced
from attnserve_server.tasks import joining
from attnserve_server.tasks.answers import Normalization, TextDelta, TextHypothesis
from attnserve_server.tasks.interface import Model
from attnserve_server.tasks.joining import Part
from attnserve_server.tasks.text import Span


@dataclass(frozen=True, slots=True)
class Rendered:
    """Tokens with their text and pieces."""

    tokens: list[int]
    text: str
    pieces: list[Span]


@dataclass(frozen=True, slots=True)
class TextPrepared:
    """A prepared request of a task that generates text.

    It has one part per sentence if the text was split. All parts have these options, except for prefix and seed.
    """

    model: Model
    parts: Sequence[Part]
    options: DecodeOptions
    payloads: Sequence[SequencePayload] = ()
    streamed: dict[int, Rendered] = field(default_factory=dict)
    """What streams have rendered, by the number of the part."""


@dataclass(frozen=True, slots=True)
class NoText:
    """Stands for the source text in a part whose source is not text."""

    tokens: list[int] = field(default_factory=list)
    pieces: list[Span] = field(default_factory=list)


def hypotheses_of(prepared: TextPrepared, answers: Sequence[SequenceDone]) -> list[TextHypothesis]:
    """Returns the hypotheses of the whole answer, best first.

    Raises:
        InvalidRequest: the joined attention is too large.
    """
    num_ranks = max(len(each.outcome.hypotheses) for each in answers)
    chosen = [joining.ranked(answers, rank) for rank in range(num_ranks)]
    if len(prepared.parts) > 1:
        num_target = sum(len(each.tokens) for hypotheses in chosen for each in hypotheses)
        joining.check_attention(prepared.parts, prepared.options, prepared.model, num_target)
    return [_hypothesis(hypotheses, prepared) for hypotheses in chosen]


def source_pieces(parts: Sequence[Part]) -> Sequence[Span]:
    """Returns the source pieces of all parts, with spans in the whole text."""
    if len(parts) == 1:
        return shifted(parts[0].source.pieces, parts[0].begin, 0)
    return [piece for part in parts for piece in shifted(part.source.pieces, part.begin, 0)]


def shifted(spans: Sequence[Span], begin: int, first_source: int) -> Sequence[Span]:
    """Shifts a part's pieces into the whole text, where the part begins at a character and its source at a source piece."""
    if not begin and not first_source:
        return spans
    return [
        Span(
            span.text,
            begin + span.begin,
            begin + span.end,
            None if span.copied_from is None else first_source + span.copied_from,
        )
        for span in spans
    ]


def _hypothesis(hypotheses: Sequence[Hypothesis], prepared: TextPrepared) -> TextHypothesis:
    """Makes one hypothesis of the whole from one per part."""
    if len(hypotheses) == 1:
        (part,), (hypothesis,) = prepared.parts, hypotheses
        rendered, spans = _rendered(prepared, 0, hypothesis)
        text, pieces = part.gap + rendered, shifted(spans, len(part.gap), 0)
    else:
        text, pieces = _joined(hypotheses, prepared)
    return TextHypothesis(
        text,
        pieces,
        joining.joined_score(hypotheses, prepared.options.length_penalty),
        Normalization.of(prepared.options),
        joining.joined_reason(hypotheses),
        joining.joined_attention(hypotheses, prepared.parts),
    )


def _rendered(prepared: TextPrepared, index: int, hypothesis: Hypothesis) -> tuple[str, list[Span]]:
    """Renders a hypothesis of a part, unless it was streamed."""
    known = prepared.streamed.get(index)
    if known is not None and known.tokens is hypothesis.tokens:
        return known.text, known.pieces
    source = prepared.parts[index].source.pieces
    rendered: tuple[str, list[Span]] = prepared.model.task.render(hypothesis.tokens, hypothesis.copied_from, source)
    return rendered


def _joined(hypotheses: Sequence[Hypothesis], prepared: TextPrepared) -> tuple[str, list[Span]]:
    text, pieces, first_source = "", list[Span](), 0
    for index, (part, hypothesis) in enumerate(zip(prepared.parts, hypotheses, strict=True)):
        rendered, spans = _rendered(prepared, index, hypothesis)
        text += part.gap
        pieces += shifted(spans, len(text), first_source)
        text += rendered
        first_source += len(part.source.pieces)
    return text, pieces


class Deltas:
    """Shifts the rendered output of consecutive parts into one streamed text."""

    def __init__(self) -> None:
        self._num_chars = self._begin = self._first_source = 0
        self._gap, self._source_size = "", 0

    def begin(self, part: Part) -> None:
        """Starts a part, which follows all text sent so far and the part's gap."""
        self._gap += part.gap
        self._begin = self._num_chars + len(self._gap)
        self._first_source += self._source_size
        self._source_size = len(part.source.pieces)

    def delta(self, text: str, pieces: Sequence[Span]) -> TextDelta:
        """Returns the delta to send for new output of the current part's renderer."""
        text, self._gap = self._gap + text, ""
        self._num_chars += len(text)
        return TextDelta(text, shifted(pieces, self._begin, self._first_source))


class TextStream:
    """A :class:`~attnserve_server.tasks.interface.AnswerStream` of text."""

    def __init__(self, prepared: TextPrepared) -> None:
        self._prepared, self._deltas = prepared, Deltas()
        self._renderer: Any = None
        self._index = 0

    def begin(self, index: int) -> None:
        """See :class:`AnswerStream`."""
        part, self._index = self._prepared.parts[index], index
        self._deltas.begin(part)
        self._renderer = self._prepared.model.task.stream(part.source.pieces)

    def push(self, part: TokensProduced) -> TextDelta | None:
        """See :class:`AnswerStream`."""
        return self._sent(*self._renderer.push(part.tokens, part.copied_from))

    def finish(self, done: SequenceDone) -> TextDelta | None:
        """See :class:`AnswerStream`."""
        best = done.outcome.hypotheses[0]
        rest = self._renderer.finish(best.tokens, best.copied_from)
        self._prepared.streamed[self._index] = Rendered(best.tokens, self._renderer.text, self._renderer.pieces)
        return self._sent(*rest)

    def _sent(self, text: str, pieces: Sequence[Span]) -> TextDelta | None:
        return self._deltas.delta(text, pieces) if text or pieces else None
