# SPDX-License-Identifier: Apache-2.0
"""`attnserve train` and `attnserve export`: what is wrong with the arguments is one line, without a traceback."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attnserve_client.cli import main
from attnserve_export.recipe import CONFIGS, AnyRecipe
from attnserve_export.training import start
from attnserve_export.training.run import Stopped


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


def test_export_of_an_own_recipe_names_the_run_that_is_missing_and_those_that_exist(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    cure = "train it with `attnserve train`, or name the folder of the runs by --runs"
    message = f"error: no trained model in {runs / 'my-model-en-de'}: {cure}; "
    assert main(["export", str(recipe), "--runs", str(runs)]) == 1
    assert capsys.readouterr().err == f"{message}{runs} has no trained run\n"
    for name in ("other", "another"):
        selected(runs / name)
    (runs / "begun").mkdir()
    assert main(["export", str(recipe), "--runs", str(runs)]) == 1
    assert capsys.readouterr().err == f"{message}trained runs in {runs}: another, other\n"


def selected(run: Path) -> None:
    run.mkdir(parents=True)
    (run / "best.pt").touch()


def finished(run: Path) -> None:
    selected(run)
    (run / "summary.json").touch()


def trains_by(monkeypatch: pytest.MonkeyPatch, train: Callable[[Path], object]) -> list[AnyRecipe]:
    """Replaces each training by a function of its folder; returns a list of the recipes."""
    recipes = list[AnyRecipe]()
    monkeypatch.setattr(start, "train_by", lambda recipe, data, folder, **_: (recipes.append(recipe), train(folder)))
    return recipes


@pytest.mark.parametrize("options", [(), ("--data", "a set"), ("--set", "seed=3", "--set", "schedule.epochs=2")])
def test_export_finds_the_run_that_train_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    """The file is not named after its model."""
    monkeypatch.delenv("ATTNSERVE_DATA", raising=False)
    recipe, trained, exported = tmp_path / "my first.toml", trains_by(monkeypatch, finished), list[Any]()
    recipe.write_bytes((CONFIGS / "transformer-en-de.toml").read_bytes())
    monkeypatch.setattr("attnserve_export.trained.trained_in_run", lambda recipe, run: (recipe, run))
    monkeypatch.setattr("attnserve_export.bundles.export_bundle", lambda found, data, *_: exported.append((*found, data)))
    runs = tmp_path / "runs"
    assert main(["train", str(recipe), "--runs", str(runs), *options]) == 0
    printed = re.fullmatch(r"the run is (.+); `attnserve (.+)` exports it\n", capsys.readouterr().err)
    assert printed is not None
    assert Path(printed[1]).name == ("my first+epochs=2+seed=3" if "--set" in options else "my first")
    assert main(shlex.split(printed[2])) == 0
    assert exported == [(trained[0], Path(printed[1]), Path("a set" if "--data" in options else "data"))]


def stop_after(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def train(folder: Path) -> None:
        make(folder)
        raise Stopped("stopped in epoch 2")

    return train


@pytest.mark.parametrize(
    ("config", "train", "printed"),
    [
        ("transformer-en-de", Path.mkdir, False),
        ("cbam-cifar10", stop_after(Path.mkdir), False),
        ("cbam-cifar10", stop_after(selected), False),
        ("cbam-cifar10", stop_after(finished), True),
        ("sagan-cifar10", stop_after(Path.mkdir), False),
        ("sagan-cifar10", stop_after(selected), True),
    ],
)
def test_train_prints_the_export_of_a_run_that_can_be_exported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: str,
    train: Callable[[Path], object],
    printed: bool,
) -> None:
    """A classifier needs the figures of the end; a generator's run can be exported after any epoch."""
    trains_by(monkeypatch, train)
    assert main(["train", config, "--runs", str(tmp_path)]) == 0
    line = capsys.readouterr().err.splitlines()[-1]
    whole = f"the run is {tmp_path / config}"
    assert line.startswith(f"{whole}; `attnserve export {config} " if printed else whole)
    assert line.endswith("exports it") == printed


@pytest.mark.parametrize("option", [("--from-bundle",), ("--golden",), ("--record", "figures.json")], ids="".join)
def test_export_from_what_is_there_takes_no_changes(capsys: pytest.CaptureFixture[str], option: tuple[str, ...]) -> None:
    assert main(["export", "nonesuch", *option, "--set", "seed=3"]) == 2
    assert "--set: does not apply to --from-bundle, --golden and" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("option", [("--set", "seed=3"), ("--epochs", "0"), ("--taught", "translations.gz")], ids="".join)
def test_a_queue_takes_no_option_of_one_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, ...]
) -> None:
    assert main(["train", "--queue", "four-models", "--list", *option, "--runs", str(tmp_path)]) == 2
    assert f"Invalid value for {option[0]}: does not apply to --queue" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("option", [("--jobs", "1"), ("--minutes", "0"), ("--list",)], ids="".join)
def test_one_training_takes_no_option_of_a_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: tuple[str, ...]
) -> None:
    trained = trains_by(monkeypatch, finished)
    assert main(["train", "cbam-cifar10", *option, "--runs", str(tmp_path)]) == 2
    assert f"Invalid value for {option[0]}: applies only with --queue" in " ".join(capsys.readouterr().err.split())
    assert not trained


def test_bundle_of_a_recipe_in_a_file_is_found_by_its_model(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = recipe.rename(tmp_path / "other.toml")
    assert main(["export", str(renamed), "--from-bundle", "--models", str(tmp_path)]) == 1
    assert str(tmp_path / "my-model-en-de" / "1") in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none.toml"), "--from-bundle", "--models", str(tmp_path)]) == 1
    assert "no recipe" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_a_cpu_needs_no_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    used = list[str]()
    monkeypatch.setattr(start, "train_by", lambda *_, device, **__: used.append(device))
    assert main(["train", "cbam-cifar10", "--device", device, "--runs", str(tmp_path)]) == 0
    assert used == [device]


def test_export_from_a_bundle_that_is_missing_names_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "nonesuch", "--from-bundle", "--models", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: no bundle with a training.json in {tmp_path / 'nonesuch' / '1'}\n"
