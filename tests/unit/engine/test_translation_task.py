# SPDX-License-Identifier: Apache-2.0
"""Text to pieces and back: spans index the text as it was given, and a stream says what the whole answer says."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnserve_server.tasks.translation import Span, TranslationTask
from tests.foreign import common
from tests.unit.engine.fakes import manifest

END_ID, UNKNOWN_ID, BEGIN_ID, PAD_ID = common.END_ID, common.UNKNOWN_ID, common.BEGIN_ID, common.PAD_ID


@dataclass
class Bundle:
    """What a task reads of a bundle."""

    manifest: Any

    def read(self, name: str) -> bytes:
        assert name == "pieces.model"
        return common.sentencepiece_model()


@functools.cache
def task() -> TranslationTask:
    description = manifest()
    description.vocabulary.sentencepiece_file = "pieces.model"
    bundle: Any = Bundle(description)
    return TranslationTask(bundle)


def check_spans(text: str, spans: list[Span]) -> None:
    """Each is its own characters, they are in order, and what is between them is white space."""
    covered = 0
    for span in spans:
        assert text[span.begin : span.end] == span.text
        assert span.begin >= covered
        assert not text[covered : span.begin].strip()
        assert span.text == span.text.lstrip()
        covered = span.end
    assert not text[covered:].strip()


TEXTS = [
    "A dog runs.",
    "  Two leading spaces",
    "two  spaces   within",
    "trailing spaces  ",
    "\ta tab\tand a\nline break\n",
    "Über den Dächern läuft ein Äffchen",
    "e\u0301 decomposed, and E\u0301",
    "A 😀😀 dog 👩‍👩‍👧 runs",
    "😀",
    "中文 and Ελληνικά",
    "\u3000wide space first",
    "no\u00a0break",
    "ﬁne ½ ① Ａ",
    "…",
    "x",
]


@pytest.mark.parametrize("text", TEXTS)
def test_spans_index_the_text(text: str) -> None:
    source = task().encode(text)
    assert len(source.tokens) == len(source.pieces)
    check_spans(text, source.pieces)
    assert source.tokens[-1] == END_ID
    assert source.pieces[-1] == Span("", len(text), len(text))
    assert END_ID not in source.tokens[:-1]


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.one_of(st.sampled_from("ab A.,  \t\n"), st.characters(exclude_categories=("Cs", "Cc"))), max_size=30))
def test_spans_of_any_text(text: str) -> None:
    source = task().encode(text)
    assert len(source.tokens) == len(source.pieces)
    for piece in source.pieces:
        assert text[piece.begin : piece.end] == piece.text
    begins = [piece.begin for piece in source.pieces]
    assert begins == sorted(begins)


def test_emoji_is_one_unknown_piece() -> None:
    source = task().encode("A 😀😀 dog")
    unknown = [piece for token, piece in zip(source.tokens, source.pieces, strict=True) if token == UNKNOWN_ID]
    assert Span("😀😀", 2, 4) in unknown


def test_spans_are_in_code_points() -> None:
    source = task().encode("😀 dog")
    assert [piece for piece in source.pieces if piece.text.endswith("dog") or piece.text == "d"][0].begin == 2


def test_empty_text_is_the_end_symbol_alone() -> None:
    assert task().encode("").tokens == [END_ID]
    assert task().encode("  ").pieces == [Span("", 2, 2)]


@pytest.mark.parametrize("text", common.sentences()[:40])
def test_there_and_back(text: str) -> None:
    source = task().encode(text)
    rendered, pieces = task().render(source.tokens)
    assert rendered == text
    check_spans(rendered, pieces)
    assert len(pieces) == len(source.tokens)


def test_render_without_an_end_symbol() -> None:
    tokens = task().encode("A dog runs.").tokens
    assert task().render(tokens[:-1])[0] == "A dog runs."
    assert len(task().render(tokens[:-1])[1]) == len(tokens) - 1
    assert task().render([]) == ("", [])
    assert task().render([END_ID]) == ("", [Span("", 0, 0)])


@pytest.mark.parametrize("seed", range(4))
def test_one_piece_for_each_token_whatever_is_produced(seed: int) -> None:
    """A model may produce padding, unknown and begin as well."""
    rng = random.Random(seed)
    for _ in range(200):
        tokens = [rng.choice([PAD_ID, UNKNOWN_ID, BEGIN_ID]) if rng.random() < 0.2 else rng.randrange(4, 200) for _ in range(9)]
        tokens += [END_ID] * rng.randint(0, 1)
        text, pieces = task().render(tokens)
        assert len(pieces) == len(tokens)
        check_spans(text, pieces)


@pytest.mark.parametrize("seed", range(4))
def test_stream_adds_up_to_the_answer(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(150):
        tokens = [rng.randrange(3) if rng.random() < 0.1 else rng.randrange(4, 200) for _ in range(rng.randint(1, 14))]
        tokens += [END_ID] * rng.randint(0, 1)
        renderer, text, pieces, start = task().stream(), "", [], 0
        while start < len(tokens):
            count = rng.choice([1, 1, 1, 2, 4])
            delta, new = renderer.push(tokens[start : start + count])
            text, pieces, start = text + delta, pieces + new, start + count
            check_spans(text, pieces)
        assert (text, pieces) == task().render(tokens)


def test_stream_of_a_sentence() -> None:
    for sentence in common.sentences()[:30]:
        renderer = task().stream()
        pushed = [renderer.push([token]) for token in task().encode(sentence).tokens]
        assert "".join(delta for delta, _ in pushed) == sentence
        assert pushed[-1] == ("", [Span("", len(sentence), len(sentence))])
        assert all(len(new) == 1 for _, new in pushed)
