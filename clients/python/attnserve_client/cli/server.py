# SPDX-License-Identifier: Apache-2.0
"""The server that a command asks: its address, and the files of TLS and of the token."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from attnserve_client.channel import DEFAULT_ADDRESS
from attnserve_client.cli import flags, output
from attnserve_client.cli.options import Address
from attnserve_client.client import Client
from attnserve_client.errors import AttnserveError, ServerUnreachable, ToolError
from attnserve_client.retry import RetryPolicy
from attnserve_client.security import VARIABLES, Security

_TOLD_AFTER = 5
"""Failed attempts before a command says that it waits: 1.5 s, so that a server that is just starting costs no line."""


@dataclass(frozen=True, slots=True)
class _Told(RetryPolicy):
    """The default policy, which says once on standard error that the server does not answer."""

    address: str = ""
    _is_told: threading.Event = field(default_factory=threading.Event)

    def backoff_s(self, attempt: int, error: AttnserveError, draw: float) -> float:
        """Returns the wait after a failed attempt."""
        if attempt >= _TOLD_AFTER and isinstance(error, ServerUnreachable) and not self._is_told.is_set():
            self._is_told.set()
            output.note(f"no answer from {self.address} yet (is a server running there?); trying again until the timeout")
        return RetryPolicy.backoff_s(self, attempt, error, draw)


@dataclass(frozen=True, slots=True)
class Server:
    """What connects to a server.

    Attributes:
        address: its ``host:port``.
        security: files of TLS and of the token.
    """

    address: str = DEFAULT_ADDRESS
    security: Security = Security()  # noqa: RUF009 - frozen

    def client(self, **settings: Any) -> Client:
        """Returns a client.

        Raises:
            ToolError: a file cannot be used.
        """
        try:
            policy = _Told(address=self.address)
            return Client(self.address, self.security.credentials(), token=self.security.token(), retries=policy, **settings)
        except (OSError, ValueError) as error:
            cause = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
            raise ToolError(f"cannot connect to {self.address}: {cause}") from error


DEFAULT_SERVER = Server()
_CONTEXT = "context"
"""Parameter of a command for its context."""


def _file(name: str, text: str) -> Any:
    return typer.Option(f"--{name.replace('_', '-')}", envvar=VARIABLES[name], metavar="FILE", help=text)


_OPTIONS: dict[str, tuple[Any, str]] = {
    "address": (Address, DEFAULT_ADDRESS),
    "ca": (Annotated[str, _file("ca", "CA of the server's certificate (PEM); turns TLS on.")], ""),
    "cert": (Annotated[str, _file("cert", "Certificate of this client (PEM), for servers that require one.")], ""),
    "key": (Annotated[str, _file("key", "Private key of --cert (PEM).")], ""),
    "token_file": (Annotated[str, _file("token_file", "File with the token, for servers that require one.")], ""),
}


def takes_server(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces a command's parameter ``server`` by the options that make it.

    An error of a call ends the command with code 1, and is reported with the command's flags in the places of fields.
    """
    signature, parameters = inspect.signature(command, eval_str=True), list[inspect.Parameter]()
    kind = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(name, kind, default=value, annotation=hint) for name, (hint, value) in _OPTIONS.items()]
    for parameter in signature.parameters.values():
        parameters += options if parameter.name == "server" else [parameter.replace(kind=kind)]
    parameters.append(inspect.Parameter(_CONTEXT, kind, annotation=typer.Context))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        address, *files = (given.pop(option.name) for option in options)
        with flags.of_command(given.pop(_CONTEXT)):
            try:
                command(**given, server=Server(address, Security(*files)))
            except AttnserveError as error:
                output.report(error)
                raise typer.Exit(1) from error

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run
