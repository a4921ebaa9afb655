# SPDX-License-Identifier: Apache-2.0
"""The server's configuration: flags over environment over file over defaults, read once at start into frozen sections.

``cli.py`` calls :func:`load_config`; ``app.py`` hands every ring its own section. The names of a key follow from these classes:
``engine.slots`` is ``slots`` under ``[engine]`` in the TOML file and ``ATTNSERVE_ENGINE_SLOTS`` in the environment.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from attnserve_server.errors import ConfigError

PREFIX = "ATTNSERVE_"
FOREIGN_VARIABLES = frozenset({"ATTNSERVE_DATA", "ATTNSERVE_ADDRESS"})
"""Variables with our prefix that belong to other commands."""
DEFAULTS_FILE = "defaults.toml"
"""Of a model repository."""

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
CountOrAuto = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
PositiveSeconds = Annotated[float, msgspec.Meta(ge=0.001, le=86_400)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


class GrpcConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The gRPC server; port 0 picks a free one."""

    host: Name = "127.0.0.1"
    port: Port = 8001
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
    """The HTTP server of /metrics and /healthz; port 0 picks a free one."""

    host: Name = "127.0.0.1"
    port: Port = 8002


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Workers, slots and queue."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    variant: Name = "auto"
    """Name of a bundle's variant; "auto" takes the first one for the device."""
    workers: CountOrAuto = 0
    """Worker processes; 0 for as many as the device allows."""
    slots: Count = 32
    """Rows of a worker's batch for one model."""
    queue_limit: Count = 512
    """Requests of one model that may wait; what comes above is refused. One client may fill four fifths of it."""
    ageing_seconds: PositiveSeconds = 1.0
    """After this long, a request that is the next of its client moves up a level of priority."""
    max_beam_size: Count = 8
    max_source_tokens: CountOrAuto = 0
    """Longest source that is taken; 0 for the model's own limit."""
    admit_wait_seconds: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.004
    """How long a request waits for company, while others decode, before it is encoded."""
    stream_interval_seconds: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.02
    """Pieces of a stream that come within this time go in one message; 0 for each by itself. The first one never waits."""


class CacheConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The cache of answers, which also lets equal requests share the work that is under way."""

    max_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 0
    """Memory for answers, those of all models; 0 for no cache."""


class DefaultModelsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The model that a request without a model id gets, by task.

    Empty for what the model repository's ``defaults.toml`` says, or else the first one by name.
    """

    translation: str = ""
    caption: str = ""


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be configured."""

    models: str = ""
    """Folder of the model repository; empty for the one that comes with attnserve."""
    max_text_chars: Count = 10_000
    """Longer texts are refused before they are tokenized."""
    max_image_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 10_000_000
    """Larger image files are refused before they are opened."""
    max_image_pixels: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 40_000_000
    """Images of more pixels are refused before they are decoded."""
    drain_seconds: Seconds = 30.0
    """How long a stopping server works on for what it has admitted."""
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    grpc: GrpcConfig = GrpcConfig()
    http: HttpConfig = HttpConfig()
    engine: EngineConfig = EngineConfig()
    cache: CacheConfig = CacheConfig()
    default_models: DefaultModelsConfig = DefaultModelsConfig()


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
    return {PREFIX + key.upper().replace(".", "_"): key for key in _keys(ServerConfig)}


def _keys(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(struct):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from _keys(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


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
