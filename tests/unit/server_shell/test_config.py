# SPDX-License-Identifier: Apache-2.0
"""Sources of the configuration, their order, and what is refused."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from attnserve_client import security
from attnserve_server import cli
from attnserve_server.config import (
    DefaultModelsConfig,
    ServerConfig,
    from_flags,
    load_config,
    repository_defaults,
    settings,
    to_toml,
    variables,
)
from attnserve_server.environment import service_links
from attnserve_server.errors import ConfigError
from attnserve_server.setting_types import Flag


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
    values = {"int": "3", "float": "0.5", "bool": "false", "str": "words", "dict": "{}"}
    choices = {"engine.device": "cpu", "log_format": "json", "log_level": "debug", "trace.endpoint": "http://a:1"}
    types = {key: type(value).__name__ for key, value in flat(msgspec.to_builtins(ServerConfig())).items()}
    assert sorted(variables().values()) == sorted(types)
    values_by_key = {key: choices.get(key, values[name]) for key, name in types.items()} | {"grpc.max_message_bytes": "2048"}
    environ = {name: values_by_key[key] for name, key in variables().items()}
    loaded = flat(msgspec.to_builtins(load_config({}, environ)))
    assert {key: str(value).lower() for key, value in loaded.items()} == values_by_key


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value})
    return found


def test_other_variables_are_left_alone() -> None:
    environ = {
        "ATTNSERVE_DATA": "/data",
        "ATTNSERVE_RUNS": "/runs",
        "ATTNSERVE_ADDRESS": "host:1",
        "PATH": "/bin",
        "attnserve_grpc_port": "x",
    }
    environ |= dict.fromkeys(security.VARIABLES.values(), "/file")
    assert load_config({}, environ) == ServerConfig()


def test_service_links_of_kubernetes_are_no_settings() -> None:
    """All variables of two services, one of two named ports, as the kubelet makes them; the first three were refused."""
    links = {
        "ATTNSERVE_SERVICE_HOST": "10.0.0.1",
        "ATTNSERVE_PORT": "tcp://10.0.0.1:8001",
        "ATTNSERVE_GRPC_PORT": "tcp://10.0.0.2:8001",
        "ATTNSERVE_SERVICE_PORT": "8001",
        "ATTNSERVE_SERVICE_PORT_GRPC": "8001",
        "ATTNSERVE_SERVICE_PORT_HTTP_METRICS": "8002",
        "ATTNSERVE_PORT_8001_TCP": "tcp://10.0.0.1:8001",
        "ATTNSERVE_PORT_8001_TCP_PROTO": "tcp",
        "ATTNSERVE_PORT_8001_TCP_PORT": "8001",
        "ATTNSERVE_PORT_8001_TCP_ADDR": "10.0.0.1",
        "ATTNSERVE_GRPC_SERVICE_HOST": "fd00::1",
        "ATTNSERVE_GRPC_SERVICE_PORT": "8001",
        "ATTNSERVE_GRPC_PORT_53_UDP": "udp://[fd00::1]:53",
        "ATTNSERVE_GRPC_PORT_53_UDP_ADDR": "fd00::1",
    }
    assert load_config({}, links) == ServerConfig()
    assert service_links({**links, "ATTNSERVE_HTTP_PORT": "8002"}) == sorted(links)
    config = load_config({}, {**links, "ATTNSERVE_HTTP_PORT": "8003"})
    assert config.http.port == 8003


@pytest.mark.parametrize("value", ["1", "0.0.0.0", "tcp", "words", "true"])
def test_no_setting_is_taken_for_a_service_link(value: str) -> None:
    assert service_links(dict.fromkeys(variables(), value)) == []


def test_empty_variable_is_as_none(tmp_path: Path) -> None:
    file = file_of(tmp_path, 'models = "here"\n[grpc]\nport = 1\n')
    empty = dict.fromkeys(variables(), "")
    assert load_config({}, empty) == ServerConfig()
    assert load_config({}, empty, file) == load_config({}, {}, file)


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("ATTNSERVE_GRPC_PORT", "80a", "grpc.port"),
        ("ATTNSERVE_GRPC_PORT", "65536", "grpc.port"),
        ("ATTNSERVE_HTTP_PORT", "-1", "http.port"),
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
        ("ATTNSERVE_GRPC_PROT", "", "ATTNSERVE_GRPC_PROT"),
        ("ATTNSERVE_SERVICE_HOST", "true", "ATTNSERVE_SERVICE_HOST"),
        ("ATTNSERVE_PORT", "8001", "ATTNSERVE_PORT"),
        ("ATTNSERVE_PORT_8001", "tcp://10.0.0.1:8001", "ATTNSERVE_PORT_8001"),
        ("ATTNSERVE_GRPC_HOST_PORT", "8001", "ATTNSERVE_GRPC_HOST_PORT"),
        ("ATTNSERVE_GRPC_PORT", "http://10.0.0.1:8001", "grpc.port"),
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


def test_flags_are_those_of_the_settings_that_have_one() -> None:
    given = {"host": "::1", "grpc_port": 1, "cache_bytes": 2, "slots": None}
    assert from_flags(given) == {
        "grpc": {"host": "::1", "port": 1},
        "http": {"host": "::1"},
        "engine": {"slots": None},
        "cache": {"max_bytes": 2},
    }
    assert load_config(from_flags(given), {"ATTNSERVE_ENGINE_SLOTS": "5"}).engine.slots == 5


def test_no_two_settings_share_a_flag_but_the_host() -> None:
    names = [setting.flag.name for setting in settings() if setting.flag is not None]
    assert [name for name in set(names) if names.count(name) > 1] == ["host"]


class PlantedSection(msgspec.Struct, frozen=True):
    """A section of a later release."""

    retries: Annotated[int, msgspec.Meta(ge=0), Flag("How often to try again")] = 3
    colour: Annotated[Literal["red", "green"], Flag(name="paint")] = "red"
    is_loud: Annotated[bool, Flag("Whether to shout")] = False
    hidden: int = 1


class PlantedConfig(msgspec.Struct, frozen=True):
    """A configuration of a later release."""

    section: PlantedSection = PlantedSection()


def test_setting_that_is_added_has_a_flag_with_its_help() -> None:
    shown = {flag.name: get_args(flag.annotation) for flag in cli.flags_of(settings(PlantedConfig))}
    assert {name: (kind, option.help) for name, (kind, option) in shown.items()} == {
        "retries": (int | None, "How often to try again [3]."),
        "paint": (str | None, r"red or green \[red]."),
        "is_loud": (bool | None, "Whether to shout [False]."),
    }


def test_help_shows_the_default_of_every_flag() -> None:
    app = typer.Typer()
    app.command()(cli.serve)
    shown = re.sub(r"[\s│]", "", CliRunner().invoke(app, ["--help"]).output)
    defaults = {setting.flag.default or f"{setting.default}" for setting in settings() if setting.flag is not None} - {""}
    assert {"auto", "127.0.0.1", "text", "info", "the model's limit", "the one that comes with attnserve"} <= defaults
    assert [each for each in defaults if f"[{each.replace(' ', '').removesuffix('.0')}]." not in shown] == []


def test_command_prints_what_flags_and_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNSERVE_ENGINE_SLOTS", "5")
    app = typer.Typer()
    app.command()(cli.serve)
    done = CliRunner().invoke(app, ["--host", "::1", "--drain-seconds", "2.5", "--device", "cpu", "--print-config"])
    assert done.exit_code == 0
    printed = tomllib.loads(done.stdout)
    assert (printed["grpc"]["host"], printed["http"]["host"], printed["drain_seconds"]) == ("::1", "::1", 2.5)
    assert (printed["engine"]["device"], printed["engine"]["slots"], printed["engine"]["workers"]) == ("cpu", 5, 0)


def test_command_refuses_a_flag_out_of_range() -> None:
    app = typer.Typer()
    app.command()(cli.serve)
    done = CliRunner().invoke(app, ["--slots", "0", "--print-config"])
    assert done.exit_code == 1
    assert "engine.slots" in done.output


def test_error_says_in_words_which_values_are_allowed(tmp_path: Path) -> None:
    for line, words in (("log_level = 'x'", "debug, info, warning or error"), ("trace.endpoint = 'a'", "http://HOST:PORT")):
        with pytest.raises(ConfigError, match=f": must be {words}"):
            load_config({}, {}, file_of(tmp_path, line))
