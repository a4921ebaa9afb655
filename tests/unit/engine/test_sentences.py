# SPDX-License-Identifier: Apache-2.0
"""A text as sentences: no character is lost, and every sentence has its position."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attnserve_server.tasks.characters import has_visible
from attnserve_server.tasks.sentences import Sentence, split

PIECES = ["a", "B", "dog", "Dr.", "z. B.", ".", "!", "?", "...", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\u2029", "\x85", "\u2003", "\ufe0f", "\u2060", "😀", "。", '"', "(", ")", "«", "»", "\ufeff", "\u200b", "\0", "É", "1"]  # fmt: skip


def test_sentences_and_what_stands_between() -> None:
    text = "  A dog runs.  A cat sits!\n\nB\t"
    assert split(text, "en") == [Sentence("A dog runs.", 2), Sentence("A cat sits!", 15, "  "), Sentence("B", 28, "\n\n")]


@pytest.mark.parametrize("text", ["A dog runs.", "  A dog runs. \n", "Dr. Smith runs.", "", " ", "\ufeff", "..."])
def test_a_text_without_two_sentences_is_as_it_was(text: str) -> None:
    assert split(text, "en") == [Sentence(text)]


def test_invisible_characters_are_not_a_sentence() -> None:
    assert [each.text for each in split("One. \ufeff\n\n\u200b\n\nTwo.", "en")] == ["One.", "Two."]
    assert split("One.\n\n\u200b\n\nTwo.", "en")[1].gap == "\n\n\u200b\n\n"


def test_invisible_characters_that_count_as_letters_are_no_sentence() -> None:
    assert [each.text for each in split("One.\n\n\u2060\ufe0f\n\nTwo.", "en")] == ["One.", "Two."]


@pytest.mark.parametrize("space", ["\u2028", "\u2029", "\x85", "\xa0", "\u3000", "\u2003", "\u1680"])
def test_white_space_of_several_bytes_after_one_letter(space: str) -> None:
    """The library's own panic, which is no ``Exception``: `byte index 3 is not a char boundary`."""
    assert "".join(each.gap + each.text for each in split(f"B{space}.\n", "en")).strip() == f"B{space}."
    found = split(f"A dog\n\nB{space}.\n", "en")
    assert [(each.text, each.begin, each.gap) for each in found] == [("A dog", 0, ""), (f"B{space}.", 7, "\n\n")]


class PanicException(BaseException):
    """Named like the one that a library in Rust raises."""


def test_text_whose_splitting_panics_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(language: str, text: str) -> list[str]:
        raise PanicException(language, text)

    def interrupt(language: str, text: str) -> list[str]:
        raise KeyboardInterrupt(language, text)

    monkeypatch.setattr("sentencex.segment", panic)
    assert split("One. Two.", "en") == [Sentence("One. Two.")]
    monkeypatch.setattr("sentencex.segment", interrupt)
    with pytest.raises(KeyboardInterrupt):
        split("One. Two.", "en")


def test_language() -> None:
    text = "Das ist z. B. gut. Ja."
    assert [each.text for each in split(text, "de-AT")] == ["Das ist z. B. gut.", "Ja."]
    assert len(split("Eins. Zwei.", "")) == len(split("Eins. Zwei.", "tlh")) == 2
    assert [each.text for each in split("日本。本当。", "ja")] == ["日本。", "本当。"]


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), st.text(max_size=40)))
@example("a\r\n\r\nb")
def test_nothing_is_lost(text: str) -> None:
    found = split(text, "en")
    assert found
    if len(found) == 1:
        assert found == [Sentence(text)]
        return
    for sentence in found:
        assert text[sentence.begin : sentence.begin + len(sentence.text)] == sentence.text
        assert sentence.text == sentence.text.strip() != ""
    begin, end = found[0].begin, found[-1].begin + len(found[-1].text)
    assert "".join(each.gap + each.text for each in found) == text[begin:end]
    assert found[0].gap == ""
    for hidden in (text[:begin], text[end:], *(each.gap for each in found)):
        assert not has_visible(hidden)
