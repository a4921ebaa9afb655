# SPDX-License-Identifier: Apache-2.0
"""A translation's attention, shown in the terminal or drawn into a file."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from attnserve_client.attention_text import AttentionText
from attnserve_client.cli import output
from attnserve_client.errors import ToolError
from attnserve_client.types import Translation


def show(console: Console, translation: Translation) -> None:
    """Prints the best hypothesis' attention, which was requested as a mean.

    Raises:
        ToolError: the translation has no attention.
    """
    best = translation.best
    if best.attention is None:
        raise ToolError(f"{translation.model} has no attention to show")
    source = [piece.label for piece in translation.source_pieces]
    console.print(AttentionText(best.attention, source, [piece.label for piece in best.pieces]))


def save(path: Path, translation: Translation) -> None:
    """Draws the best hypothesis' attention, which was requested as a mean, into a file.

    Raises:
        ToolError: it cannot be drawn or written.
    """
    with output.drawing(path, "the attention "):
        from attnserve_client.attention_plot import save_attention

        save_attention(path, translation)
