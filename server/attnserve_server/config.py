# SPDX-License-Identifier: Apache-2.0
"""The server's configuration: flags over environment over file over defaults, read once at start into frozen sections.

``cli.py`` calls :func:`load_config`; ``app.py`` hands every ring its own section. A setting is a field of these classes and
nothing else: ``engine.slots`` is ``slots`` under ``[engine]`` in the TOML file, ``ATTNSERVE_ENGINE_SLOTS`` in the environment, and
``--slots`` with its help text by its :class:`Flag`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec

from attnserve_server.errors import ConfigError

PREFIX = "ATTNSERVE_"
FOREIGN_VARIABLES = frozenset({"ATTNSERVE_DATA", "ATTNSERVE_ADDRESS"})
"""Variables with our prefix that belong to other commands."""
DEFAULTS_FILE = "defaults.toml"
"""Of a model repository."""


@dataclass(frozen=True, slots=True)
class Flag:
    """Gives a setting a flag of `attnserve serve`.

    Attributes:
        help: what the setting is, without a period; empty for its values, where it is one of several.
        name: with underscores; empty for the field's name. Settings with the same name are set by one flag.
        default: what is shown as the default; empty for the field's own.
    """

    help: str = ""
    name: str = ""
    default: str = ""


Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
CountOrAuto = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
PositiveSeconds = Annotated[float, msgspec.Meta(ge=0.001, le=86_400)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


class GrpcConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The gRPC server."""

    host: Annotated[Name, Flag("Address to bind, both ports")] = "127.0.0.1"
    port: Annotated[Port, Flag("gRPC port, 0 for a free one", "grpc_port")] = 8001
    max_message_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**31 - 1)] = 12 * 1024 * 1024
    """Larger requests are refused; an image file must fit in."""
    max_concurrent_streams: Count = 4096
    """RPCs at a time on one connection; further ones wait in the client."""
    keepalive_seconds: PositiveSeconds = 60.0
    """After this long without a word, a client is pinged."""
    keepalive_timeout_seconds: PositiveSeconds = 20.0
    """A client that leaves a ping unanswered for this long is gone."""
    min_ping_interval_seconds: PositiveSeconds = 10.0
    """Clients that ping more often, without data between, are disconnected."""
    reflection: bool = True
    """Whether clients may list the services."""


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The HTTP server of /metrics and /healthz."""

    host: Annotated[Name, Flag()] = "127.0.0.1"
    port: Annotated[Port, Flag("Port of /metrics and /healthz, 0 for a free one", "http_port")] = 8002


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Workers, slots and queue."""

    device: Annotated[Literal["auto", "cpu", "cuda"], Flag()] = "auto"
    variant: Annotated[Name, Flag("Variant of the bundles, by name")] = "auto"
    """The name "auto" takes the first one for the device."""
    workers: Annotated[CountOrAuto, Flag("Worker processes; 0 for one a core (GPU: one)")] = 0
    slots: Annotated[Count, Flag("Rows that decode at once in a worker")] = 32
    """Of one model."""
    queue_limit: Annotated[Count, Flag("Requests that may wait, per model")] = 512
    """What comes above is refused. One client may fill four fifths of it."""
    ageing_seconds: Annotated[PositiveSeconds, Flag("A request's wait for one more level of priority")] = 1.0
    """It is counted while the request is the next of its client."""
    max_beam_size: Annotated[Count, Flag("Largest beam that is accepted")] = 8
    max_source_tokens: Annotated[CountOrAuto, Flag("Longest source in pieces", default="the model's limit")] = 0
    """0 for the model's limit."""
    admit_wait_seconds: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.004
    """How long a request waits for company, while others decode, before it is encoded."""
    stream_interval_seconds: Annotated[
        float,
        msgspec.Meta(ge=0, le=1),
        Flag("Pieces of a stream that come within this time go together; 0 for each by itself"),
    ] = 0.02
    """The first piece never waits."""
    check_answers: bool = True
    """Whether a worker compares the golden answers of a bundle before it serves the model."""


class CacheConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The cache of answers, which also lets equal requests share the work that is under way."""

    max_bytes: Annotated[
        int, msgspec.Meta(ge=0, le=2**40), Flag("Memory for answers to repeated requests; 0 for none", "cache_bytes")
    ] = 0
    """For the answers of all models together."""


class DefaultModelsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The model that a request without a model id gets, by task.

    Empty for what the model repository's ``defaults.toml`` says, or else the first one by name.
    """

    translation: str = ""
    caption: str = ""


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be configured."""

    models: Annotated[str, Flag("Model repository: <model id>/<version>/manifest.json")] = ""
    """Empty for the one that comes with attnserve."""
    max_text_chars: Count = 10_000
    """Longer texts are refused before they are tokenized."""
    max_image_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 10_000_000
    """Larger image files are refused before they are opened."""
    max_image_pixels: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 40_000_000
    """Images of more pixels are refused before they are decoded."""
    drain_seconds: Annotated[Seconds, Flag("How long a stop waits for what was admitted")] = 30.0
    log_format: Annotated[Literal["text", "json"], Flag()] = "text"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Flag()] = "info"
    grpc: GrpcConfig = GrpcConfig()
    http: HttpConfig = HttpConfig()
    engine: EngineConfig = EngineConfig()
    cache: CacheConfig = CacheConfig()
    default_models: DefaultModelsConfig = DefaultModelsConfig()


class Setting(NamedTuple):
    """One setting: its key with its section, its type, its default, and its flag if it has one."""

    key: str
    type: Any
    default: Any
    flag: Flag | None


def settings(struct: type[msgspec.Struct] = ServerConfig, prefix: str = "") -> Iterator[Setting]:
    """Yields all settings, in the order of the file."""
    for field in msgspec.structs.fields(struct):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from settings(field.type, f"{prefix}{field.name}.")
        else:
            flag = next((each for each in get_args(field.type) if isinstance(each, Flag)), None)
            named = flag and replace(flag, name=flag.name or field.name)
            yield Setting(prefix + field.name, field.type, field.default, named)


def from_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of flags, by name, nested as the sections are."""
    nested: dict[str, Any] = {}
    for key, _, _, flag in settings():
        if flag is not None and flag.name in given:
            _merge(nested, _nested(key, given[flag.name]))
    return nested


def load_config(flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None) -> ServerConfig:
    """Reads all sources, later ones winning: defaults, file, environment, flags.

    Args:
        flags: the given ones, nested as the sections are; a value of None counts as not given.
        environ: the environment; only variables with the prefix are looked at.
        file: a TOML file.

    Raises:
        ConfigError: a key is unknown, or a value cannot be parsed or is out of range; names the key and its source.
    """
    sources = [(str(file), _read_toml(file))] if file is not None else []
    sources += [(variable, _nested(key, value)) for variable, key, value in _from_environment(environ)]
    sources.append(("flags", _given(flags)))
    merged: dict[str, Any] = {}
    for origin, values in sources:
        _parsed(values, origin)  # each on its own: a wrong value is refused even where another source wins over it
        _merge(merged, values)
    return _parsed(merged, "all sources together")


def repository_defaults(models: Path) -> DefaultModelsConfig:
    """Reads ``defaults.toml`` of a model repository: what it has as its default models; it may have none.

    Raises:
        ConfigError: the file names no task that there is, or is no TOML.
    """
    file = models / DEFAULTS_FILE
    if not file.is_file():
        return DefaultModelsConfig()
    try:
        return msgspec.convert(_read_toml(file), DefaultModelsConfig)
    except msgspec.ValidationError as error:
        raise _explained(error, str(file)) from None


def to_toml(config: ServerConfig) -> str:
    """Returns the whole configuration as a TOML file that :func:`load_config` reads back to an equal one."""
    values = msgspec.to_builtins(config)
    lines = [f"{name} = {_toml_value(value)}" for name, value in values.items() if not isinstance(value, dict)]
    for name, section in values.items():
        if isinstance(section, dict):
            lines += ["", f"[{name}]", *(f"{key} = {_toml_value(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def variables() -> dict[str, str]:
    """Returns every environment variable that is known, with its key."""
    return {PREFIX + key.upper().replace(".", "_"): key for key, *_ in settings()}


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    known = variables()
    given = sorted(name for name in environ if name.startswith(PREFIX) and name not in FOREIGN_VARIABLES)
    for name in given:
        if name not in known:
            raise ConfigError(f"{name}: no such setting; the known variables are {', '.join(sorted(known))}")
        yield name, known[name], environ[name]


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a TOML file: {error}") from None


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out what was not given, and sections of which nothing was."""
    given: dict[str, Any] = {}
    for name, value in flags.items():
        kept = _given(value) if isinstance(value, Mapping) else value
        if kept is not None and kept != {}:
            given[name] = kept
    return given


def _nested(key: str, value: Any) -> dict[str, Any]:
    *sections, name = key.split(".")
    nested: dict[str, Any] = {name: value}
    for section in reversed(sections):
        nested = {section: nested}
    return nested


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _merge(into.setdefault(name, {}), value)
        else:
            into[name] = value


def _parsed(values: Mapping[str, Any], origin: str) -> ServerConfig:
    """Returns a source's values with defaults for the others; numbers may be strings, as in the environment."""
    try:
        return msgspec.convert(values, ServerConfig, strict=False)
    except msgspec.ValidationError as error:
        raise _explained(error, origin) from None


def _explained(error: msgspec.ValidationError, origin: str) -> ConfigError:
    """Turns msgspec's "… - at `$.grpc.port`" into an error that names the key first, then where its value came from."""
    text, _, path = str(error).partition(" - at `")
    key = path.rstrip("`").removeprefix("$").removeprefix(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
    if unknown is not None:
        key, text = f"{key}.{unknown[1]}".removeprefix("."), "no such setting"
    return ConfigError(f"{key}: {text} (from {origin})")


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
