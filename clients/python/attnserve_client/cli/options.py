# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share. Decode options are derived from the clients' keywords and their docstrings."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

import typer

from attnserve_client.channel import checked_address
from attnserve_client.options import DecodeKeywords, DecodeOptions


def address_option(text: str) -> str:
    """Returns the value of an option that is an address; an empty default passes.

    Raises:
        BadParameter: the value is no address; see ``checked_address``.
    """
    try:
        return checked_address(text) if text else text
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Address = Annotated[
    str,
    typer.Option(
        "--address", envvar="ATTNSERVE_ADDRESS", metavar="HOST:PORT", help="The server's gRPC address.", callback=address_option
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="For each answer, including retries.")]
ModelId = Annotated[str, typer.Option("--model", metavar="ID", help="Model id; default: the server's default model.")]
MaxInFlight = Annotated[int, typer.Option("--max-in-flight", min=1, metavar="N", help="Maximum number of concurrent texts.")]
ImagesInFlight = Annotated[int, typer.Option("--max-in-flight", min=1, metavar="N", help="Maximum number of concurrent images.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

SAMPLING = ("temperature", "top_k", "top_p", "seed")

_Sample = Annotated[bool, typer.Option("--sample", help="Draw pieces at random instead of searching; implied by the next four.")]
WITHOUT_OPTION = ("return_attention", "omit_score")
"""Keys of the clients' keywords without an option of their name."""
_NAMES = {"no_repeat_ngram_size": "no_repeat_ngram"}
_METAVARS = {int: "N", float: "X", str: "TEXT", bool: None}


def takes_keywords(*, but: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Returns a decorator that replaces a command's parameter ``keywords`` by an option for each key of that TypedDict.

    Options are named after the keys; options that are not given are not sent. ``--sample`` precedes the sampling options and
    means temperature 1 unless a temperature is given.

    Args:
        but: keys without an option.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature, parameters = inspect.signature(command, eval_str=True), list[inspect.Parameter]()
        options = list(_options(signature.parameters["keywords"].annotation, but))
        for parameter in signature.parameters.values():
            parameters += options if parameter.name == "keywords" else [parameter]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            keywords = {option.name: given.pop(option.name) for option in options}
            if keywords.pop("sample", False) and keywords["temperature"] is None:
                keywords["temperature"] = 1.0
            command(**given, keywords=keywords)

        keyword_only = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        run.__signature__ = signature.replace(parameters=keyword_only)  # type: ignore[attr-defined]
        return run

    return decorate


def decode_option(name: str, keywords: type = DecodeKeywords) -> Any:
    """Returns the typer option for a key of the clients' keywords."""
    docs, kind = docs_of(DecodeOptions) | docs_of(keywords), _kind_of(get_type_hints(keywords)[name])
    return typer.Option(flag_of(name), metavar=_METAVARS[kind], help=docs.get(name))


def flag_of(name: str) -> str:
    """Returns the flag for a key of the clients' keywords."""
    return "--" + _NAMES.get(name, name).replace("_", "-")


def docs_of(documented: type) -> dict[str, str]:
    """Returns the first sentence of each entry of ``Attributes:`` in a class' docstring."""
    docs = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", inspect.getdoc(documented) or "", re.MULTILINE)
    return {name: " ".join(text.split()).split(". ")[0].removesuffix(".") + "." for name, text in docs}


def _options(keywords: type, but: Collection[str]) -> Iterator[inspect.Parameter]:
    for name, hint in get_type_hints(keywords).items():
        if name in but or name in WITHOUT_OPTION:
            continue
        if name == SAMPLING[0]:
            yield _parameter("sample", False, _Sample)
        default = None if NoneType in get_args(hint) else _kind_of(hint)()
        yield _parameter(name, default, Annotated[hint, decode_option(name, keywords)])


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _kind_of(hint: Any) -> type[Any]:
    """Returns X for both X and X | None."""
    kind: type[Any] = (get_args(hint) or (hint,))[0]
    return kind
