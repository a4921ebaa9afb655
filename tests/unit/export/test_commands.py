# SPDX-License-Identifier: Apache-2.0
"""`attnserve train` and `attnserve export`: what is wrong with the arguments is one line, without a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attnserve_client.cli import main
from attnserve_export.recipe import CONFIGS


@pytest.fixture(autouse=True)
def allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the command from starting this process again with another allocator."""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "0")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "my-model-en-de.toml"
    text = (CONFIGS / "transformer-en-de.toml").read_text(encoding="utf-8")
    path.write_text(text.replace('model_id = "transformer-en-de"', 'model_id = "my-model-en-de"'), encoding="utf-8")
    return path


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_the_machine_lacks_is_named(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "--device", "cuda", "--runs", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: --device cuda: PyTorch {torch.__version__} finds no CUDA device\n"
    assert main(["train", str(recipe), "--device", "gpu", "--runs", str(tmp_path)]) == 2
    assert "must be cpu or cuda, not 'gpu'" in capsys.readouterr().err


def test_export_of_an_own_recipe_names_the_run_that_is_missing(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(recipe), "--runs", str(tmp_path)]) == 1
    run = tmp_path / "my-model-en-de"
    message = f"error: no trained model in {run}: train it with `attnserve train`, or name the folder of the runs by --runs\n"
    assert capsys.readouterr().err == message


def test_export_from_a_bundle_that_is_missing_names_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "nonesuch", "--from-bundle", "--models", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: no bundle with a training.json in {tmp_path / 'nonesuch' / '1'}\n"
