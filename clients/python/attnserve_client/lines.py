# SPDX-License-Identifier: Apache-2.0
"""Translates lines of text, one answer for each line, for the command line and the evaluation."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Unpack

from attnserve_client.client import Client
from attnserve_client.errors import AttnserveError
from attnserve_client.options import RequestKeywords
from attnserve_client.types import Translation


def translate_lines(
    client: Client,
    lines: Iterable[str],
    *,
    model: str = "",
    max_in_flight: int = 64,
    unit: str = "line",
    **keywords: Unpack[RequestKeywords],
) -> Generator[Translation | AttnserveError | None, None, None]:
    """Yields a translation or an error for every line, in order; None for a blank line, which is not sent.

    The note of an error is ``unit`` and the line's number, unless ``unit`` is empty.
    """
    num_blank_before: deque[int] = deque([0])  # blank lines before each running text; the last entry is still being counted

    def texts() -> Iterator[str]:
        for line in lines:
            text = line.strip()
            if text:
                num_blank_before.append(0)
                yield text
            else:
                num_blank_before[-1] += 1

    number = 0
    answers = client.translate_many(texts(), on_error="return", max_in_flight=max_in_flight, model=model, **keywords)
    with contextlib.closing(answers):
        for answer in answers:
            num_blank = num_blank_before.popleft()
            yield from [None] * num_blank
            number += num_blank + 1
            if isinstance(answer, AttnserveError) and unit:
                answer.add_note(f"{unit} {number}")
            yield answer
    yield from [None] * num_blank_before.popleft()
