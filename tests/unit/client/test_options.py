# SPDX-License-Identifier: Apache-2.0
"""A decode option is declared once: the command line's options follow from the clients' keywords and their docs."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from attnserve_client.cli.options import decode_option, docs_of, takes_keywords
from attnserve_client.options import CaptionKeywords, DecodeKeywords, DecodeOptions, RequestKeywords


class MoreKeywords(RequestKeywords, total=False):
    """Keywords of a later release.

    Attributes:
        novelty: How new an answer must be,
            from 0 to 1. It is not old.
    """

    novelty: float | None


def run(but: tuple[str, ...], *arguments: str) -> Any:
    """The options that a command with one option for each key receives; its help text, or its error."""
    given: list[MoreKeywords] = []

    @takes_keywords(but=but)
    def command(*, keywords: MoreKeywords) -> None:
        given.append(keywords)

    app = typer.Typer(add_completion=False)
    app.command()(command)
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    return given[0] if given else result.output


def test_keywords_are_the_fields_of_the_options() -> None:
    assert get_type_hints(DecodeKeywords) == get_type_hints(DecodeOptions)


@pytest.mark.parametrize("keywords", [RequestKeywords, CaptionKeywords])
def test_every_key_has_a_help_text(keywords: type) -> None:
    assert set(docs_of(DecodeOptions) | docs_of(keywords)) == set(get_type_hints(keywords))


def test_key_that_is_added_is_an_option_with_the_first_sentence_as_its_help() -> None:
    assert docs_of(MoreKeywords) == {"novelty": "How new an answer must be, from 0 to 1."}
    assert run((), "--novelty", "0.5", "--priority", "1")["novelty"] == 0.5
    help_text = run((), "--help")
    assert "How new an answer must be, from 0 to 1." in help_text
    assert "It is not old." not in help_text
    assert decode_option("novelty", MoreKeywords).metavar == "X"


def test_key_that_is_left_out_is_no_option() -> None:
    assert "No such option" in run(("novelty",), "--novelty", "0.5")
    assert "novelty" not in run(("novelty",))


def test_what_is_not_given_is_not_sent() -> None:
    keywords = run((), "--sample")
    assert {name: value for name, value in keywords.items() if value is not None} == {
        "temperature": 1.0,
        "split_sentences": False,
        "priority": 0,
    }
