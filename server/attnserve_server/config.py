# SPDX-License-Identifier: Apache-2.0
"""The server's configuration: flags over environment over file over defaults, read once at start into frozen sections.

``cli.py`` calls :func:`load_config`; ``app.py`` passes each part its own section. One field of these classes defines one setting:
``engine.slots`` is ``slots`` under ``[engine]`` in the TOML file, ``ATTNSERVE_ENGINE_SLOTS`` in the environment, and ``--slots``,
with its help text, by its :class:`Flag`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from attnserve_server.config_listen import GrpcConfig, HttpConfig
from attnserve_server.config_tasks import DefaultModelsConfig, VideoConfig
from attnserve_server.config_trace import TraceConfig
from attnserve_server.config_trust import TlsConfig, TokensConfig
from attnserve_server.environment import PREFIX, given_settings
from attnserve_server.errors import ConfigError
from attnserve_server.setting_errors import explained
from attnserve_server.setting_types import Count, CountOrAuto, Flag, Name, PositiveSeconds, Seconds
from attnserve_server.toml_text import read_inline, read_toml, toml_value

DEFAULTS_FILE = "defaults.toml"
"""Name of the file in a model repository that sets its default models."""


class BatchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Batches of one single-pass model."""

    max_batch: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    """Largest batch; 0 for that of the bundle, which was measured on the variant's device."""
    window_seconds: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Longest wait of a request for a larger batch; 0 runs what there is as soon as the engine is free."""


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Workers, slots and queue."""

    device: Annotated[Literal["auto", "cpu", "cuda"], Flag()] = "auto"
    variant: Annotated[Name, Flag("Variant of the bundles, by name")] = "auto"
    """The name "auto" takes the first one for the device."""
    workers: Annotated[CountOrAuto, Flag("Worker processes; 0 for one per core (GPU: one)")] = 0
    slots: Annotated[Count, Flag("Rows that a worker decodes at once, per model")] = 32
    """Per model and worker."""
    queue_limit: Annotated[Count, Flag("Requests that may wait, per model")] = 512
    """Further requests are refused. One connection or client id may fill four fifths of the queue, one client eight ninths."""
    ageing_seconds: Annotated[PositiveSeconds, Flag("Wait after which a request's priority rises by one")] = 1.0
    """Only the wait as the client's next request counts."""
    max_beam_size: Annotated[Count, Flag("Largest beam that is accepted")] = 8
    max_source_tokens: Annotated[CountOrAuto, Flag("Longest source in pieces", default="the model's limit")] = 0
    """0 for the model's limit."""
    admit_wait_seconds: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.004
    """Longest wait of a request for a larger encode batch while others decode."""
    stream_interval_seconds: Annotated[
        float,
        msgspec.Meta(ge=0, le=1),
        Flag("Interval at which streams send new pieces together; 0 sends each piece at once"),
    ] = 0.02
    """The first piece of a stream is sent at once."""
    hang_seconds: Annotated[float, msgspec.Meta(ge=0.2, le=86_400)] = 10.0
    """A worker that has work or loads a model, and makes no progress for this time, is replaced."""
    check_answers: bool = True
    """Whether a worker compares the golden answers of a bundle before it serves the model."""
    batches: dict[str, BatchConfig] = {}
    """Batches of single-pass models, by model id; the environment has it as an inline table of TOML."""

    def batches_of(self, model_id: str) -> BatchConfig:
        """Returns the settings of a model's batches."""
        return self.batches.get(model_id, BatchConfig())


class CacheConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The answer cache, which also coalesces equal requests that run at the same time."""

    max_bytes: Annotated[
        int, msgspec.Meta(ge=0, le=2**40), Flag("Size of the answer cache in bytes; 0 for no cache", "cache_bytes")
    ] = 0
    """Shared by all models."""


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration."""

    models: Annotated[
        str, Flag("Model repository: <model id>/<version>/manifest.json", default="the one that comes with attnserve")
    ] = ""
    """Empty for the repository that comes with attnserve."""
    max_text_chars: Count = 10_000
    """Longer texts are refused before they are tokenized."""
    max_image_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 10_000_000
    """Larger image files are refused before they are opened."""
    max_image_pixels: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 40_000_000
    """Images of more pixels are refused before they are decoded."""
    drain_seconds: Annotated[Seconds, Flag("Time that a shutdown waits for admitted requests")] = 30.0
    log_format: Annotated[Literal["text", "json"], Flag()] = "text"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Flag()] = "info"
    slow_request_seconds: Annotated[Seconds, Flag("Requests that take longer are logged with their phases; 0 for none")] = 0.0
    """As warnings, whatever their status; a stream's time includes its client's reading."""
    grpc: GrpcConfig = GrpcConfig()
    http: HttpConfig = HttpConfig()
    engine: EngineConfig = EngineConfig()
    cache: CacheConfig = CacheConfig()
    tls: TlsConfig = TlsConfig()
    tokens: TokensConfig = TokensConfig()
    trace: TraceConfig = TraceConfig()
    video: VideoConfig = VideoConfig()
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
            default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
            yield Setting(prefix + field.name, field.type, default, named)


def _allowed(key: str) -> str:
    """Returns in words which values a setting allows: those of its type, or else the description of its type."""
    kind, *notes = get_args(next((each.type for each in settings() if each.key == key), None)) or [None]
    if get_origin(kind) is Literal:
        *others, last = get_args(kind)
        return f"{', '.join(others)} or {last}"
    return next((each.description for each in notes if isinstance(each, msgspec.Meta) and each.description), "")


def from_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns flag values, given by flag name, nested by section."""
    nested: dict[str, Any] = {}
    for key, _, _, flag in settings():
        if flag is not None and flag.name in given:
            _merge(nested, _nested(key, given[flag.name]))
    return nested


def load_config(flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None) -> ServerConfig:
    """Reads all sources, later ones winning: defaults, file, environment, flags.

    Args:
        flags: values nested by section; None for an absent flag.
        environ: the environment; only variables with the prefix are read, and an empty one is as none.
        file: a TOML file.

    Raises:
        ConfigError: a key is unknown, or a value cannot be parsed or is out of range; names the key and its source.
    """
    sources = [(str(file), read_toml(file))] if file is not None else []
    sources += [(variable, _nested(key, _from_text(key, value))) for variable, key, value in given_settings(environ, variables())]
    sources.append(("flags", _given(flags)))
    merged: dict[str, Any] = {}
    for origin, values in sources:
        _parsed(values, origin)  # an invalid value is an error even if another source overrides it
        _merge(merged, values)
    return _parsed(merged, "all sources together")


def repository_defaults(models: Path) -> DefaultModelsConfig:
    """Reads the default models from ``defaults.toml`` of a model repository; the file is optional.

    Raises:
        ConfigError: the file is not TOML, or names an unknown task.
    """
    file = models / DEFAULTS_FILE
    if not file.is_file():
        return DefaultModelsConfig()
    try:
        return msgspec.convert(read_toml(file), DefaultModelsConfig)
    except msgspec.ValidationError as error:
        raise explained(error, str(file)) from None


def to_toml(config: ServerConfig) -> str:
    """Returns the whole configuration as a TOML file that :func:`load_config` reads back to an equal one."""
    values = msgspec.to_builtins(config)
    lines = [f"{name} = {toml_value(value)}" for name, value in values.items() if not isinstance(value, dict)]
    for name, section in values.items():
        if isinstance(section, dict):
            lines += ["", f"[{name}]", *(f"{key} = {toml_value(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def variables() -> dict[str, str]:
    """Returns all environment variables of settings, with their keys."""
    return {_variable(key): key for key, *_ in settings()}


def _variable(key: str) -> str:
    return PREFIX + key.upper().replace(".", "_")


def _from_text(key: str, value: str) -> Any:
    """Returns the value of a variable: a table where the setting is one, else the text, which is converted with its source.

    Raises:
        ConfigError: a table is wanted, and the text is none.
    """
    if key not in {each.key for each in settings() if isinstance(each.default, dict)}:
        return value
    try:
        return read_inline(value)
    except ValueError:
        raise ConfigError(f"{key}: not an inline table of TOML (from {_variable(key)})") from None


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Drops absent values and empty sections."""
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
    """Validates the values of one source, with defaults for the others; numbers may be strings, as in the environment."""
    try:
        parsed = msgspec.convert(values, ServerConfig, strict=False)
        to_toml(parsed).encode()  # msgspec encodes only some of the strings
    except msgspec.ValidationError as error:
        raise explained(error, origin, lambda: _unfit_entry(values), _allowed) from None
    except UnicodeEncodeError:  # bytes of a variable that are not UTF-8 are surrogates
        raise ConfigError(f"a value from {origin} is not UTF-8") from None
    return parsed


def _unfit_entry(values: Mapping[str, Any]) -> str:
    """Returns the first model whose batches cannot be read; empty if there is none."""
    for model, batches in values["engine"]["batches"].items():
        try:
            msgspec.convert(batches, BatchConfig, strict=False)
        except msgspec.ValidationError:
            return str(model)
    return ""
