# SPDX-License-Identifier: Apache-2.0
"""Sources of the configuration, their order, and what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from attnserve_server.config import DefaultModelsConfig, ServerConfig, load_config, repository_defaults, to_toml, variables
from attnserve_server.errors import ConfigError


def file_of(folder: Path, text: str) -> Path:
    path = folder / "attnserve.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_safe() -> None:
    config = load_config({}, {})
    assert config == ServerConfig()
    assert (config.grpc.host, config.grpc.port, config.http.host, config.http.port) == ("127.0.0.1", 8001, "127.0.0.1", 8002)


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = file_of(tmp_path, 'log_format = "json"\n[grpc]\nport = 1\nhost = "::1"\n[engine]\nslots = 1\nqueue_limit = 1\n')
    environ = {"ATTNSERVE_GRPC_PORT": "2", "ATTNSERVE_ENGINE_SLOTS": "2"}
    config = load_config({"grpc": {"port": 3}}, environ, file)
    assert (config.grpc.port, config.engine.slots, config.engine.queue_limit) == (3, 2, 1)
    assert (config.grpc.host, config.log_format, config.http.port) == ("::1", "json", 8002)


def test_flags_that_were_not_given_change_nothing(tmp_path: Path) -> None:
    file = file_of(tmp_path, "[grpc]\nport = 1\n")
    assert load_config({"models": None, "grpc": {"port": None}, "http": {}}, {}, file).grpc.port == 1


def test_every_setting_has_its_variable() -> None:
    values = {"int": "3", "float": "0.5", "bool": "false", "str": "words"}
    choices = {"engine.device": "cpu", "log_format": "json", "log_level": "debug"}
    types = {key: type(value).__name__ for key, value in flat(msgspec.to_builtins(ServerConfig())).items()}
    assert sorted(variables().values()) == sorted(types)
    values_by_key = {key: choices.get(key, values[name]) for key, name in types.items()} | {"grpc.max_message_bytes": "2048"}
    environ = {name: values_by_key[key] for name, key in variables().items()}
    loaded = flat(msgspec.to_builtins(load_config({}, environ)))
    assert {key: str(value).lower() for key, value in loaded.items()} == values_by_key


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return found


def test_other_variables_are_left_alone() -> None:
    environ = {"ATTNSERVE_DATA": "/data", "ATTNSERVE_ADDRESS": "host:1", "PATH": "/bin", "attnserve_grpc_port": "x"}
    assert load_config({}, environ) == ServerConfig()


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("ATTNSERVE_GRPC_PORT", "80a", "grpc.port"),
        ("ATTNSERVE_GRPC_PORT", "", "grpc.port"),
        ("ATTNSERVE_GRPC_PORT", "65536", "grpc.port"),
        ("ATTNSERVE_HTTP_PORT", "-1", "http.port"),
        ("ATTNSERVE_GRPC_HOST", "", "grpc.host"),
        ("ATTNSERVE_GRPC_REFLECTION", "perhaps", "grpc.reflection"),
        ("ATTNSERVE_ENGINE_SLOTS", "0", "engine.slots"),
        ("ATTNSERVE_ENGINE_SLOTS", "1.5", "engine.slots"),
        ("ATTNSERVE_ENGINE_DEVICE", "tpu", "engine.device"),
        ("ATTNSERVE_DRAIN_SECONDS", "nan", "drain_seconds"),
        ("ATTNSERVE_DRAIN_SECONDS", "inf", "drain_seconds"),
        ("ATTNSERVE_DRAIN_SECONDS", "-1", "drain_seconds"),
        ("ATTNSERVE_LOG_FORMAT", "xml", "log_format"),
        ("ATTNSERVE_GRPC_PROT", "1", "ATTNSERVE_GRPC_PROT"),
        ("ATTNSERVE_GRPC", "1", "ATTNSERVE_GRPC"),
        ("ATTNSERVE_", "1", "ATTNSERVE_"),
    ],
)
def test_bad_variables_are_refused_by_name(name: str, value: str, key: str) -> None:
    with pytest.raises(ConfigError, match=name) as raised:
        load_config({}, {name: value})
    assert str(raised.value).startswith(f"{key}: ")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("prot = 1", "prot"),
        ("[grpc]\nprot = 1", "grpc.prot"),
        ("[grcp]\nport = 1", "grcp"),
        ("[grpc]\nport = 'x'", "grpc.port"),
        ("[grpc]\nport = 1.5", "grpc.port"),
        ("[grpc.port]\nx = 1", "grpc.port"),
        ("grpc = 5", "grpc"),
        ("models = 5", "models"),
    ],
)
def test_bad_files_are_refused_by_key(tmp_path: Path, text: str, key: str) -> None:
    file = file_of(tmp_path, text)
    with pytest.raises(ConfigError, match=f"^{key}: ") as raised:
        load_config({"grpc": {"port": 1}}, {}, file)  # a flag over it does not hide it
    assert str(file) in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml"):
        load_config({}, {}, tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_config({}, {}, file_of(tmp_path, "a = = b"))
    (tmp_path / "latin.toml").write_bytes(b'models = "\xe9"')
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_config({}, {}, tmp_path / "latin.toml")


def test_bad_flags_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine\.workers: .*flags"):
        load_config({"engine": {"workers": -1}}, {})


def test_what_is_printed_is_read_back(tmp_path: Path) -> None:
    flags = {
        "models": 'C:\\a "b" \x7f\n é 🐶',
        "drain_seconds": 0.125,
        "grpc": {"port": 0, "reflection": False},
        "engine": {"device": "cpu"},
    }
    config = load_config(flags, {})
    text = to_toml(config)
    assert tomllib.loads(text)["grpc"]["reflection"] is False
    assert load_config({}, {}, file_of(tmp_path, text)) == config


def test_sections_are_frozen() -> None:
    with pytest.raises(AttributeError):
        ServerConfig().grpc.port = 1  # type: ignore[misc]


def test_repository_may_name_its_default_models(tmp_path: Path) -> None:
    assert repository_defaults(tmp_path) == DefaultModelsConfig()
    (tmp_path / "defaults.toml").write_text('translation = "b-model"\n', encoding="utf-8")
    assert repository_defaults(tmp_path).translation == "b-model"


@pytest.mark.parametrize(
    ("text", "problem"), [("cooking = 'b'", "cooking: no such setting"), ("translation = 3", "translation"), ("=", "TOML")]
)
def test_repository_defaults_that_cannot_be_read(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "defaults.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=problem) as caught:
        repository_defaults(tmp_path)
    assert "defaults.toml" in str(caught.value)
