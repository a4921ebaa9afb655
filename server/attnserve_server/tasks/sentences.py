# SPDX-License-Identifier: Apache-2.0
"""Splits a text into sentences, with their positions and the gaps between them, by the library sentencex."""

from __future__ import annotations

from dataclasses import dataclass

import sentencex


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
