# SPDX-License-Identifier: Apache-2.0
"""The server that a command asks: its address, and the files of TLS and of the token."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from attnserve_client.channel import DEFAULT_ADDRESS
from attnserve_client.cli.options import Address
from attnserve_client.client import Client
from attnserve_client.errors import ToolError
from attnserve_client.security import VARIABLES, Security


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
            return Client(self.address, self.security.credentials(), token=self.security.token(), **settings)
        except (OSError, ValueError) as error:
            raise ToolError(f"cannot connect to {self.address}: {error}") from error


DEFAULT_SERVER = Server()


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
    """Replaces a command's parameter ``server`` by the options that make it."""
    signature, parameters = inspect.signature(command, eval_str=True), list[inspect.Parameter]()
    kind = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(name, kind, default=value, annotation=hint) for name, (hint, value) in _OPTIONS.items()]
    for parameter in signature.parameters.values():
        parameters += options if parameter.name == "server" else [parameter.replace(kind=kind)]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        address, *files = (given.pop(option.name) for option in options)
        command(**given, server=Server(address, Security(*files)))

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run
