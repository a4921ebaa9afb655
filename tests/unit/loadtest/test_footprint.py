# SPDX-License-Identifier: Apache-2.0
"""Memory of each model and the time to start, of servers of small models."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from attnserve_client.errors import ToolError
from attnserve_loadtest import footprint
from tests.fakes import small_classifier, small_generator


@pytest.mark.timeout(300)
def test_each_model_alone_and_all_together(tmp_path: Path) -> None:
    small_classifier.write_bundle(tmp_path)
    small_generator.write_bundle(tmp_path)
    found = footprint.measured(tmp_path)
    assert list(found) == [*sorted((small_classifier.MODEL_ID, small_generator.MODEL_ID)), "all"]
    for each in found.values():
        assert 0 < each.seconds < 60
        assert 10e6 < each.worker < 1e9
        assert 10e6 < each.front < 1e9
    assert found["all"].worker >= 0.95 * max(each.worker for each in found.values())


def test_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no model in"):
        footprint.measured(tmp_path)
    app = typer.Typer()
    app.command()(footprint.main)
    result = CliRunner().invoke(app, ["--models", str(tmp_path)])
    assert (result.exit_code, "error: no model in" in result.output) == (1, True)
