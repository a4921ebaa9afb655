# SPDX-License-Identifier: Apache-2.0
"""Splits a text into sentences, with their positions and the gaps between them, by the library sentencex."""

from __future__ import annotations

from dataclasses import dataclass

import sentencex

from attnserve_server.tasks.characters import has_visible

_LINE_ENDS = "\x85\u2028\u2029"
_SPACES = "\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_ASCII_SPACE = str.maketrans(_LINE_ENDS + _SPACES, "\n" * len(_LINE_ENDS) + " " * len(_SPACES))
"""White space of more than one byte, for which the library panics after a single letter ("B\u2028.")."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A stripped sentence, the index of its first character, and the characters between it and the previous sentence."""

    text: str
    begin: int = 0
    gap: str = ""


def split(text: str, language: str) -> list[Sentence]:
    """Splits a text into sentences; a text of fewer than two sentences is returned unchanged, not stripped.

    Segments without visible characters (white space, a byte order mark) belong to a gap. Gaps and sentences concatenated are the
    text without its leading and trailing white space.

    Args:
        text: any text.
        language: BCP 47 code; selects the rules for abbreviations.
    """
    sentences: list[Sentence] = []
    end, plain = 0, text.translate(_ASCII_SPACE)  # the same indices
    for segment in _segments(plain, language):
        core = segment.strip()
        if not has_visible(core):
            continue
        begin = plain.index(core, end)  # segments are slices of the text, in order
        sentences.append(Sentence(text[begin : begin + len(core)], begin, text[end:begin] if sentences else ""))
        end = begin + len(core)
    return sentences if len(sentences) > 1 else [Sentence(text)]


def _segments(text: str, language: str) -> list[str]:
    """Returns the library's segments; the text as one if the library panics, which is no ``Exception``."""
    try:
        found: list[str] = sentencex.segment(language.split("-")[0].lower(), text)  # pyright: ignore[reportAttributeAccessIssue]
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return [text]
    return found
