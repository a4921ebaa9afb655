# SPDX-License-Identifier: Apache-2.0
"""Generates ``docs/api.md`` from the comments of the protos and the docstrings of the Python client.

``python make_api.py`` writes the page; ``python make_api.py --check`` only reports whether the page is up to date.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

import attnserve_client
from attnserve_client import AttnserveError, Client, DecodeOptions
from attnserve_client.errors import BY_REASON
from attnserve_client.options import ClassifyKeywords, ClassifyVideoKeywords, GenerateKeywords, SegmentKeywords

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "api.md"
PROTOS = ("translation", "caption", "segmentation", "classification", "generation", "decoding", "single_pass", "model")
"""The protos of the services, in the page's order; the manifest is described in its own file."""
_ELSEWHERE = frozenset({"Manifest", "Task"})
"""Types of ``manifest.proto``."""
HEAD = """# API reference

Generated from `protos/attnserve/v1` and the docstrings of `clients/python/attnserve_client` by `make docs`: do not edit. The
manifest of a bundle is described in [manifest.proto](../protos/attnserve/v1/manifest.proto).
"""

_MESSAGE, _ENUM, _SERVICE = (
    descriptor_pb2.FileDescriptorProto.DESCRIPTOR.fields_by_name[name].number for name in ("message_type", "enum_type", "service")
)
_FIELD = descriptor_pb2.DescriptorProto.DESCRIPTOR.fields_by_name["field"].number
_VALUE = descriptor_pb2.EnumDescriptorProto.DESCRIPTOR.fields_by_name["value"].number
_METHOD = descriptor_pb2.ServiceDescriptorProto.DESCRIPTOR.fields_by_name["method"].number


class Proto:
    """One proto file with its comments."""

    def __init__(self, described: descriptor_pb2.FileDescriptorProto) -> None:
        self.described = described
        self._comments = {tuple(each.path): each.leading_comments for each in described.source_code_info.location}

    def comment(self, *path: int) -> str:
        """Returns the comment of an element as one line; ``path`` is the element's path in the descriptor."""
        return " ".join(self._comments.get(path, "").split())

    def services(self) -> Iterator[str]:
        """Yields the lines of the services."""
        for number, service in enumerate(self.described.service):
            yield from (
                f"### {service.name}",
                "",
                self.comment(_SERVICE, number),
                "",
                "| RPC | request | response | |",
                "| --- | --- | --- | --- |",
            )
            for index, method in enumerate(service.method):
                response = f"{'stream of ' if method.server_streaming else ''}{_link(method.output_type)}"
                text = _cell(self.comment(_SERVICE, number, _METHOD, index))
                yield f"| `{method.name}` | {_link(method.input_type)} | {response} | {text} |"
            yield ""

    def messages(self) -> Iterator[str]:
        """Yields the lines of the messages and enumerations."""
        for number, message in enumerate(self.described.message_type):
            yield from (f"### {message.name}", "", self.comment(_MESSAGE, number), "")
            if message.field:
                yield from ("| field | type | |", "| --- | --- | --- |")
                for index, field in enumerate(message.field):
                    yield f"| `{field.name}` | {_type(field)} | {_cell(self.comment(_MESSAGE, number, _FIELD, index))} |"
                yield ""
        for number, enum in enumerate(self.described.enum_type):
            yield from (f"### {enum.name}", "", self.comment(_ENUM, number), "", "| value | |", "| --- | --- |")
            for index, value in enumerate(enum.value):
                yield f"| `{value.name}` | {_cell(self.comment(_ENUM, number, _VALUE, index))} |"
            yield ""


def read_protos(folder: Path = ROOT / "protos") -> list[Proto]:
    """Compiles the protos, with their comments."""
    names = [f"attnserve/v1/{name}.proto" for name in PROTOS]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "descriptors")
        options = [f"-I{folder}", f"--descriptor_set_out={out}", "--include_source_info", *names]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options], check=True)
        found = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    by_name = {file.name: file for file in found.file}
    return [Proto(by_name[name]) for name in names]


def client_lines() -> Iterator[str]:
    """Yields the lines about the client, its options, its answers and its errors."""
    yield from ("`Client` is for blocking code, `AsyncClient` for asyncio; both have the same methods.", "")
    yield from ("| method | |", "| --- | --- |")
    for name, method in _methods(Client):
        yield f"| `{name}{_signature(method)}` | {_cell(_first_paragraph(method))} |"
    yield from (
        "",
        "### Keywords of a call, or `DecodeOptions`",
        "",
        _first_paragraph(DecodeOptions),
        "",
        "| keyword | |",
        "| --- | --- |",
    )
    for name, text in _attributes(DecodeOptions):
        yield f"| `{name}` | {_cell(text)} |"
    yield ""
    of_passes = (
        (SegmentKeywords, "segment"),
        (ClassifyKeywords, "classify_image"),
        (ClassifyVideoKeywords, "classify_video"),
        (GenerateKeywords, "generate_image"),
    )
    for keywords, of in of_passes:
        yield from (f"### Keywords of `{of}`", "", _first_paragraph(keywords), "", "| keyword | |", "| --- | --- |")
        for name, text in _attributes(keywords):
            yield f"| `{name}` | {_cell(text)} |"
        yield ""
    for name in sorted(attnserve_client.__all__):
        answer = getattr(attnserve_client, name)
        if dataclasses.is_dataclass(answer) and answer is not DecodeOptions:
            yield from _answer_lines(name, answer)
    yield from _error_lines()


def _answer_lines(name: str, answer: Any) -> Iterator[str]:
    texts = dict(_attributes(answer))
    yield from (f"### `{name}`", "", _first_paragraph(answer), "", "| attribute | type | |", "| --- | --- | --- |")
    for field in dataclasses.fields(answer):
        yield f"| `{field.name}` | {_code(str(field.type))} | {_cell(texts.get(field.name, ''))} |"
    for each, value in inspect.getmembers(answer, lambda member: isinstance(member, property)):
        yield f"| `{each}` | {_code(inspect.signature(value.fget).return_annotation)} | {_cell(_first_paragraph(value))} |"
    for each, method in _methods(answer):
        result = _code(inspect.signature(method).return_annotation)
        yield f"| `{each}{_signature(method)}` | {result} | {_cell(_first_paragraph(method))} |"
    yield ""


def _error_lines() -> Iterator[str]:
    reasons = {error: reason for reason, error in BY_REASON.items()}
    yield from ("### Errors", "", _first_paragraph(AttnserveError), "", "| attribute | |", "| --- | --- |")
    for name, text in _attributes(AttnserveError):
        yield f"| `{name}` | {_cell(text)} |"
    yield from ("", "| error | status | reason | |", "| --- | --- | --- | --- |")
    for name in sorted(attnserve_client.__all__):
        error = getattr(attnserve_client, name)
        if inspect.isclass(error) and issubclass(error, AttnserveError) and error is not AttnserveError:
            reason = f"`{reasons[error]}`" if error in reasons else ""
            yield f"| `{name}` | `{error.default_code}` | {reason} | {_cell(_first_paragraph(error))} |"
    yield ""


def page() -> str:
    """Returns the whole page."""
    protos = read_protos()
    lines = [HEAD, "## Services", ""]
    for proto in protos:
        lines += proto.services()
    lines += ["## Messages", ""]
    for proto in protos:
        lines += proto.messages()
    lines += ["## Python client", "", *client_lines()]
    return "\n".join(lines).rstrip() + "\n"


def _methods(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    for name, member in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_"):
            yield name, member


def _signature(method: Any) -> str:
    parameters = [each for each in inspect.signature(method).parameters.values() if each.name != "self"]
    shown = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
    return str(inspect.Signature(shown))


def _first_paragraph(documented: Any) -> str:
    text = (inspect.getdoc(documented) or "").partition("\n\n")[0]
    return _plain(text)


def _attributes(kind: type[Any]) -> Iterator[tuple[str, str]]:
    """Yields the entries of a docstring's section "Attributes"."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section.partition("\n\n")[0], re.MULTILINE)
    yield from ((name, _plain(text)) for name, text in entries)


def _plain(text: str) -> str:
    return re.sub(r":\w+:`([^`]*)`", r"`\1`", " ".join(text.split())).replace("``", "`")


def _code(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return f"`{text}`".replace("|", "\\|")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _link(type_name: str) -> str:
    name = type_name.rpartition(".")[2]
    return f"[{name}](#{name.lower()})"


def _type(field: descriptor_pb2.FieldDescriptorProto) -> str:
    shown = f"`{descriptor_pb2.FieldDescriptorProto.Type.Name(field.type).removeprefix('TYPE_').lower()}`"
    if field.type_name:
        name = field.type_name.rpartition(".")[2]
        shown = f"`{name}`" if name in _ELSEWHERE else _link(name)
    if field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {shown}"
    if field.HasField("oneof_index"):
        return f"{'optional' if field.proto3_optional else 'either'} {shown}"
    return shown


def main(arguments: list[str]) -> int:
    """Writes or checks the page; returns 1 if a check finds it out of date."""
    text = page()
    if "--check" not in arguments:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    is_stale = not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text
    if is_stale:
        print("docs/api.md differs from the protos and docstrings; run make docs", file=sys.stderr)
    return int(is_stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
