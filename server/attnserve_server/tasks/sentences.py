# SPDX-License-Identifier: Apache-2.0
"""A text as sentences, each with its place in the text and the white space before it. The library sentencex finds them."""

from __future__ import annotations

from dataclasses import dataclass

import sentencex


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence without white space around it, the index of its first character, and what stands between it and the one before."""

    text: str
    begin: int = 0
    gap: str = ""


def split(text: str, language: str) -> list[Sentence]:
    """Splits a text; one that has no two sentences comes back as it is, with the white space around it.

    What shows nothing (white space, a byte order mark) is no sentence, but part of a gap. Gaps and sentences joined are the text,
    but for the white space at both its ends.

    Args:
        text: any.
        language: BCP 47; decides on abbreviations and the like.
    """
    sentences: list[Sentence] = []
    end = 0
    segments: list[str] = sentencex.segment(language.split("-")[0].lower(), text)  # pyright: ignore[reportAttributeAccessIssue]
    for segment in segments:
        core = segment.strip()
        if not any(character.isprintable() and not character.isspace() for character in core):
            continue
        begin = text.index(core, end)  # segments are slices of the text, in order
        sentences.append(Sentence(core, begin, text[end:begin] if sentences else ""))
        end = begin + len(core)
    return sentences if len(sentences) > 1 else [Sentence(text)]
