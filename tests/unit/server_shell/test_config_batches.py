# SPDX-License-Identifier: Apache-2.0
"""The settings of single-pass models' batches: sources, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnserve_server.config import BatchConfig, load_config, to_toml
from attnserve_server.errors import ConfigError
from tests.unit.server_shell.test_config import file_of


def test_batches_of_a_model_are_set_in_a_file_or_a_variable_and_merged(tmp_path: Path) -> None:
    file = file_of(tmp_path, "[engine.batches.dnl-camvid]\nmax_batch = 4\n[engine.batches.other]\nwindow_seconds = 0.5\n")
    variable = {"ATTNSERVE_ENGINE_BATCHES": '{dnl-camvid = {window_seconds = 0.005}, "a b" = {max_batch = 8}}'}
    config = load_config({}, variable, file)
    found = {model: (each.max_batch, each.window_seconds) for model, each in config.engine.batches.items()}
    assert found == {"dnl-camvid": (4, 0.005), "other": (0, 0.5), "a b": (8, 0.0)}
    assert config.engine.batches_of("dnl-camvid").max_batch == 4
    assert config.engine.batches_of("unnamed") == BatchConfig(max_batch=0, window_seconds=0.0)
    assert load_config({}, {}, file_of(tmp_path, to_toml(config))) == config


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("words", "engine.batches: not an inline table"),
        ("[1]", "engine.batches: Expected `object`"),
        ("{}\nx = 1", "engine.batches: not an inline table"),
        ("[" * 10_000, "engine.batches: not an inline table"),
        ("{a = 1}", "engine.batches.a: Expected `object`"),
        ("{a = {batch = 1}}", "engine.batches.a.batch: no such setting"),
        ("{fit = {max_batch = 1}, a = {max_batch = 1025}}", "engine.batches.a.max_batch: Expected `int` <= 1024"),
        ('{"a b" = {max_batch = -1}}', 'engine.batches."a b".max_batch: Expected `int` >= 0'),
        ("{a = {window_seconds = 1.5}}", "engine.batches.a.window_seconds: Expected `float` <= 1"),
    ],
)
def test_bad_batches_are_refused_by_key(value: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config({}, {"ATTNSERVE_ENGINE_BATCHES": value})
    assert str(raised.value).startswith(problem)
    assert str(raised.value).endswith("(from ATTNSERVE_ENGINE_BATCHES)")


def test_bad_batches_of_a_file_are_refused_by_model(tmp_path: Path) -> None:
    file = file_of(tmp_path, "[engine.batches.good]\nmax_batch = 1\n[engine.batches.dnl-camvid]\nmax_batch = -1\n")
    with pytest.raises(ConfigError) as raised:
        load_config({}, {}, file)
    assert str(raised.value) == f"engine.batches.dnl-camvid.max_batch: Expected `int` >= 0 (from {file})"
