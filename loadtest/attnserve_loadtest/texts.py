# SPDX-License-Identifier: Apache-2.0
"""Texts to send: the project's own sentences, or a file's lines; and texts with an exact number of pieces."""

from __future__ import annotations

from pathlib import Path

from attnserve_client.evaluation import read_lines

DEFAULT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "sentences.en.txt"
_FILLER = ("a", "man", "and", "a", "woman", "in", "a", "red", "dress", "are", "on", "the", "street", "with", "a", "dog")


def sentences(path: Path | None = None) -> list[str]:
    """The lines of a file that are not blank; the project's own sentences if none is named.

    Raises:
        ToolError: the file cannot be read, or has no lines.
    """
    from attnserve_client.errors import ToolError

    found = [line for line in read_lines(path or DEFAULT) if line]
    if not found:
        raise ToolError(f"{path} has no lines")
    return found


def of_length(num_words: int) -> str:
    """A text of ``num_words`` common words, each of which is one piece of the vocabulary."""
    return " ".join(_FILLER[index % len(_FILLER)] for index in range(num_words))
