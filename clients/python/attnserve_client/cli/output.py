# SPDX-License-Identifier: Apache-2.0
"""Output of commands: answers as lines or JSON, errors as one line, progress on standard error; and errors of drawing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from attnserve_client.cli import flags, streams
from attnserve_client.errors import AttnserveError, ModelNotFound, ServerUnreachable, ToolError
from attnserve_client.types import Answer, Delta

_OF_ALL = frozenset({"model", "version", "priority", "top_k", "queries"})
"""Fields of a request that are the same for all items of a command; a single query is named by its number, as "queries[0].x"."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def report(error: Exception) -> None:
    """Prints an error on standard error as one line, with the field and the request's id if known.

    Within a command, fields are named by its flags.
    """
    context, message = list(getattr(error, "__notes__", ())), " ".join(str(error).split())
    if isinstance(error, AttnserveError):
        message, field = flags.explained(message, error.field)
        context += [field] if field else []
        context += [f"request {error.request_id}"] if error.request_id else []
    _print_error(Text.assemble(("error: ", "bold red"), (message, "red"), (f" ({', '.join(context)})" if context else "", "dim")))


def note(message: str) -> None:
    """Prints a remark on standard error as one line."""
    _print_error(Text(message, "dim"))


def _print_error(line: Text) -> None:
    try:
        Console(stderr=True, soft_wrap=True).print(line)
    except OSError:  # standard error is full or gone; the exit code remains
        streams.abandon(sys.stderr)


class Failures:
    """Reports and counts the errors of a command's items; the error of an only item is raised.

    Args:
        is_single: whether the command has one item.
    """

    def __init__(self, *, is_single: bool) -> None:
        self.is_single, self._num = is_single, 0
        """Whether the command has one item."""

    def report(self, error: AttnserveError) -> None:
        """Reports the error of one item.

        Raises:
            AttnserveError: ``error``, if it concerns all items: no server or model, or a wrong option.
        """
        field = error.field or ""
        is_of_all = isinstance(error, ServerUnreachable | ModelNotFound) or field in _OF_ALL or field.startswith("options.")
        if self.is_single or is_of_all:
            raise error
        self._num += 1
        report(error)

    def end(self, num_items: int, what: str) -> None:
        """Ends the command.

        Raises:
            ToolError: an item failed; ``what`` is the end of the message.
        """
        if self._num:
            raise ToolError(f"{self._num} of {num_items} {what}")


def json_of(value: Any) -> Any:
    """Converts a dataclass of ``types.py`` to a value for ``json.dumps``; arrays become nested lists."""
    fields = dataclasses.asdict(value)
    return {"text": value.text, **fields} if isinstance(value, Answer) else fields


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Prints one JSON value on standard output, on one line unless ``indent`` is given; in ASCII unless the encoding is UTF-8."""
    is_utf_8 = (sys.stdout.encoding or "").lower().replace("_", "-") in ("utf-8", "utf8")
    print(json.dumps(value, ensure_ascii=not is_utf_8, indent=indent, default=_plain), flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"no JSON for {type(value).__name__}")


@contextlib.contextmanager
def progress(description: str, total: int | None, *, is_wanted: bool = True) -> Iterator[Callable[[], None]]:
    """Shows progress on standard error, if that is a terminal.

    Args:
        description: label of the progress bar.
        total: number of steps; None if unknown.
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
        # Lines for the same terminal are printed above the bar; lines for a file or pipe must stay on standard output.
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=False,
    )
    with bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.advance(task)


def print_answer(
    answer: Answer, num_hypotheses: int, *, as_json: bool, prefix: str = "", context: Mapping[str, Any] = _NOTHING
) -> None:
    """Prints an answer: its text, or a line with rank, score and text for each of several hypotheses, or JSON.

    Args:
        answer: the answer of a server.
        num_hypotheses: number of requested hypotheses.
        as_json: print JSON instead of lines.
        prefix: start of each line.
        context: first entries of the JSON object.
    """
    if as_json:
        print_json({**context, **json_of(answer)})
    elif num_hypotheses == 1:
        print(f"{prefix}{answer.text}", flush=True)
    else:
        for rank, hypothesis in enumerate(answer.hypotheses, 1):
            print(f"{prefix}{rank}\t{hypothesis.score:.4f}\t{hypothesis.text}", flush=True)


def print_failed(error: AttnserveError, *, as_json: bool) -> None:
    """Prints what stands in the place of an answer: an empty line, or a JSON object with the error."""
    if as_json:
        print_json({"error": {"message": error.message, "code": error.code, "reason": error.reason, "field": error.field}})
    else:
        print(flush=True)


def print_stream(
    events: Iterable[Answer | Delta],
    *,
    as_json: bool,
    context: Mapping[str, Any] = _NOTHING,
) -> None:
    """Prints an answer as it arrives: its text on one line, or a JSON object for each event, starting with ``context``."""
    is_begun = False
    for event in events:
        is_delta = isinstance(event, Delta)
        if as_json:
            print_json({**context, "delta" if is_delta else "result": json_of(event)})
        elif is_delta or not is_begun:  # a server that sends a beam only as a whole sends no deltas
            print(event.text, end="", flush=True)
            is_begun = is_begun or bool(event.text)
    if not as_json:
        print(flush=True)


def check_file(file: Path | None, option: str) -> None:
    """Checks the name of a file to draw into, before any call.

    Args:
        file: the file; None passes.
        option: the option that names it.

    Raises:
        ToolError: it is a folder, its folder does not exist, or its name has no suffix, which selects the format.
    """
    if file is None:
        return
    if file.is_dir():
        raise ToolError(f"{option} must name a file, and {file} is a folder")
    if not file.parent.is_dir():
        raise ToolError(f"cannot write {file}: there is no folder {file.parent}")
    if not file.suffix:
        raise ToolError(f"{option} must name a file with a suffix, such as {file.name}.png, which selects the format")


@contextlib.contextmanager
def drawing(file: Path, what: str = "") -> Iterator[None]:
    """Converts errors of drawing to a ``ToolError``.

    Args:
        file: the file to draw into.
        what: noun for the message, with a space after it; may be empty.

    Raises:
        ToolError: a library is missing, or the file cannot be written.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ToolError(f'drawing {what}needs {error.name}: pip install "attnserve[cli]"') from error
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise ToolError(f"cannot draw {what}into {file}: {cause}") from error
