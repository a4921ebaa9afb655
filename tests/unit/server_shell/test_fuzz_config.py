# SPDX-License-Identifier: Apache-2.0
"""Mutated TOML files, environments and flags: a configuration that can be written and read back, or ``ConfigError``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from unittest import mock

import pytest
import typer
from hypothesis import strategies as st
from typer.testing import CliRunner

from attnserve_server import cli
from attnserve_server.config import ServerConfig, load_config, repository_defaults, settings, to_toml, variables
from attnserve_server.errors import ConfigError
from tests.fuzzing import ENOUGH, NUMBERS, TEXTS, campaign, corpus, mutated, scales

FILES = corpus("config")
SOUND = ("all.toml", "some.toml")
MOST_S = 20.0
"""Time after which one example is taken for a hang."""
VALUES = [*TEXTS, *map(str, NUMBERS), "9" * 5000, "\udcff", "0x10", "1_0", "inf", "json", "cpu", "debug", "[1]", "٣"]

environments = st.dictionaries(
    st.sampled_from(sorted(variables()))
    | st.sampled_from(["ATTNSERVE_", "ATTNSERVE_GRPC", "ATTNSERVE_grpc_port", "ATTNSERVE_\udcff"]),
    st.sampled_from(VALUES) | st.text(max_size=8),
    max_size=3,
)
names = sorted({f"--{setting.flag.name.replace('_', '-')}" for setting in settings() if setting.flag is not None})
arguments = st.lists(st.sampled_from([*names, "--no-such-flag", "-x"]) | st.sampled_from(VALUES) | st.text(max_size=6), max_size=5)


def read(folder: Path, data: bytes, environ: dict[str, str]) -> bool:
    """Whether file and environment are accepted."""
    path = folder / "attnserve.toml"
    path.write_bytes(data)
    began, config, problem = time.monotonic(), None, "none"
    try:
        config = load_config({}, environ, path)
    except ConfigError as error:
        problem = str(error)
    assert problem
    if config is not None:
        path.write_text(to_toml(config), encoding="utf-8", errors="surrogateescape")
        assert load_config({}, {}, path) == config
    assert time.monotonic() - began < MOST_S
    return config is not None


@pytest.mark.parametrize("name", FILES)
def test_kept_file_is_read_or_refused(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, FILES[name], {}) == (name in SOUND)


@pytest.mark.parametrize("name", FILES)
def test_kept_file_as_defaults_of_a_repository_is_read_or_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "defaults.toml").write_bytes(FILES[name])
    with pytest.raises(ConfigError):
        repository_defaults(tmp_path)


@pytest.mark.parametrize("value", ["9" * 5000, "\udcff", "²", "\x00"])
@pytest.mark.parametrize(
    "variable", ["ATTNSERVE_GRPC_PORT", "ATTNSERVE_DRAIN_SECONDS", "ATTNSERVE_GRPC_REFLECTION", "ATTNSERVE_LOG_LEVEL"]
)
def test_variable_with_an_odd_value_is_refused(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        load_config({}, {variable: value})


@pytest.mark.parametrize("variable", ["ATTNSERVE_MODELS", "ATTNSERVE_TLS_CERTIFICATE", "ATTNSERVE_TOKENS_FILE"])
def test_path_that_is_not_utf8_is_refused(variable: str) -> None:
    with pytest.raises(ConfigError, match=f"^a value from {variable} is not UTF-8$"):
        load_config({}, {variable: "\udcff"})


@scales
@pytest.mark.timeout(600)
def test_mutated_file_and_environment_are_read_or_refused(tmp_path: Path, scale: float) -> None:
    accepted = [0, 0]

    def check(given: tuple[bytes, dict[str, str]]) -> None:
        accepted[read(tmp_path, *given)] += 1

    files = mutated([FILES[name] for name in SOUND], 2) | mutated(list(FILES.values()))
    campaign(st.tuples(files, st.just({})) | st.tuples(st.just(FILES["some.toml"]), environments), check, 4, scale)
    assert sum(accepted) < ENOUGH or min(accepted) > 0.02 * sum(accepted), accepted


@scales
@pytest.mark.timeout(600)
def test_random_flags_are_read_or_refused(scale: float) -> None:
    app = typer.Typer()
    app.command()(cli.serve)

    def check(given: list[str]) -> None:
        with mock.patch.dict(os.environ, clear=True):
            result = CliRunner().invoke(app, ["--print-config", *given])
        assert result.exit_code in (0, 1, 2), given
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)

    assert ServerConfig() == load_config({}, {})
    campaign(arguments, check, 4, scale)
