# SPDX-License-Identifier: Apache-2.0
"""`attnserve profile` of single-pass models, by size, batch and wish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from attnserve_client.cli.app import build_app
from tests.fakes.passes import ATTENTION, MODEL_ID, PLAIN, write_bundle


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_bundle(tmp_path)
    return tmp_path


def profiled(models: Path, *options: str) -> Any:
    done = CliRunner().invoke(build_app(), ["profile", MODEL_ID, "--models", str(models), "--runs", "3", *options])
    return done


@pytest.mark.parametrize(("options", "graph"), [((), PLAIN), (("--attention", "--rows", "2", "--size", "8x16"), ATTENTION)])
def test_graph_that_the_server_would_choose_is_profiled(models: Path, options: tuple[str, ...], graph: str) -> None:
    done = profiled(models, "--json", *options)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["model"], found["graph"]) == (MODEL_ID, graph)
    assert found["seconds"] > 0
    assert "Conv" in {share["name"] for share in found["operators"]}
    assert ("GatherND" in {share["name"] for share in found["operators"]}) == (graph == ATTENTION)


def test_table_says_what_was_run(models: Path) -> None:
    done = profiled(models, "--rows", "2", "--attention")
    assert done.exit_code == 0, done.output
    assert f"{MODEL_ID}, fp32, {ATTENTION}: batch of 2 with attention" in done.output


def test_size_that_the_model_has_not_is_refused(models: Path) -> None:
    done = profiled(models, "--size", "9x9")
    assert done.exit_code == 1
    assert f"{MODEL_ID} has no input of the size '9x9'; its sizes are 16x8, 8x16, 8x8" in done.output
