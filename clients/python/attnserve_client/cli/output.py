# SPDX-License-Identifier: Apache-2.0
"""What commands print: JSON, errors as one line, progress on standard error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from attnserve_client.errors import AttnserveError
from attnserve_client.types import Caption, Translation


def report(error: Exception) -> None:
    """Prints an error on standard error as one line, with the field and the request's id where they are known."""
    context = list(getattr(error, "__notes__", ()))
    if isinstance(error, AttnserveError):
        context += [f"field {error.field}"] if error.field else []
        context += [f"request {error.request_id}"] if error.request_id else []
    message = " ".join(str(error).split())
    line = Text.assemble(("error: ", "bold red"), (message, "red"), (f" ({', '.join(context)})" if context else "", "dim"))
    Console(stderr=True, soft_wrap=True).print(line)


def json_of(value: Any) -> Any:
    """Returns what ``json.dumps`` takes for a dataclass of ``types.py``, arrays as nested lists."""
    fields = dataclasses.asdict(value)
    return {"text": value.text, **fields} if isinstance(value, Caption | Translation) else fields


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Prints one JSON value on standard output, on one line unless ``indent`` says otherwise."""
    print(json.dumps(value, ensure_ascii=False, indent=indent, default=_plain), flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"no JSON for {type(value).__name__}")


@contextlib.contextmanager
def progress(description: str, total: int | None, *, is_wanted: bool = True) -> Iterator[Callable[[], None]]:
    """Shows progress on standard error, where that is a terminal.

    Args:
        description: what is going on.
        total: steps; None where nobody knows.
        is_wanted: False to show nothing.

    Yields:
        A function to call after every step.
    """
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(
        *columns,
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
        console=console,
        disable=not (is_wanted and console.is_terminal),
        transient=True,
        # Lines for the same terminal go above the bar; those for a file or a pipe must stay on standard output.
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=False,
    )
    with bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.advance(task)
