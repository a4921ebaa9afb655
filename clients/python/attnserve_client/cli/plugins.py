# SPDX-License-Identifier: Apache-2.0
"""Commands that other packages add through entry points of the group ``attnserve.commands``: name → function for typer.

A command is imported only when it runs, so that ``attnserve translate`` does not wait for PyTorch. A command whose package lacks an
extra is still listed; running it names the extra to install. The package itself, which must be quick to import, may describe its
commands in ``COMMANDS``: name → (line for the list of commands, extras of attnserve that it needs).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.main import get_command

from attnserve_client.errors import ToolError

GROUP = "attnserve.commands"


def add_commands(app: typer.Typer) -> None:
    """Adds every command that an installed package declares, sorted by name."""
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        app.command(
            entry.name,
            help=about(entry)[0],
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )(_forwarder(entry))


def command_of(app: typer.Typer) -> Any:
    """Returns the command of an app. The paragraphs of its help lose their line breaks, which typer keeps after the first one."""
    command = get_command(app)
    pending: list[Any] = [command]
    while pending:
        each = pending.pop()
        each.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in (each.help or "").split("\n\n")) or None
        pending += getattr(each, "commands", {}).values()
    return command


def load(entry: EntryPoint) -> Callable[..., Any] | typer.Typer:
    """Imports a command.

    Raises:
        ToolError: a dependency is not installed; the message names the remedy.
    """
    with _explained(entry):
        command: Callable[..., Any] | typer.Typer = entry.load()
    return command


@contextlib.contextmanager
def _explained(entry: EntryPoint) -> Iterator[None]:
    """Names the remedy for a module that a command needs and that is not installed.

    Raises:
        ToolError: an import failed for this reason.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if missing.split(".")[0] == entry.module.split(".")[0]:
            raise ToolError(f"attnserve {entry.name} is not part of this installation: there is no {missing}") from error
        extras = about(entry)[1]
        cure = f'pip install "attnserve[{extras}]"' if extras else f"install {missing}, which {entry.module} imports"
        raise ToolError(f"attnserve {entry.name} needs {missing}, which is not installed: {cure}") from error


def about(entry: EntryPoint) -> tuple[str, str]:
    """Returns a command's line for the list and its extras, from its package's ``COMMANDS``."""
    package = entry.module.split(".")[0]
    try:
        commands: dict[str, tuple[str, str]] = getattr(import_module(package), "COMMANDS", {})
    except ImportError:  # reported when the command runs
        commands = {}
    return commands.get(entry.name, (f"Added by {package}.", ""))


def _forwarder(entry: EntryPoint) -> Callable[[typer.Context], None]:
    """Returns a command that passes all arguments to the real one."""

    def forward(context: typer.Context) -> None:
        command = load(entry)
        if not isinstance(command, typer.Typer):
            function, command = command, typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            command.command(entry.name)(function)
        with _explained(entry):  # a command imports large libraries when it runs, such as PyTorch
            command_of(command).main(args=list(context.args), prog_name=f"attnserve {entry.name}", standalone_mode=True)

    return forward
