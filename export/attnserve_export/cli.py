# SPDX-License-Identifier: Apache-2.0
"""The commands `attnserve train` and `attnserve export`; entry points add them to the client's command line."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from attnserve_export.recipe import RecipeError, load_recipe

_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "536870912"}

DataOption = Annotated[Path, typer.Option(envvar="ATTNSERVE_DATA", help="Folder of the data sets.")]
RunsOption = Annotated[Path, typer.Option(envvar="ATTNSERVE_RUNS", help="Folder of the training runs.")]
DATA, RUNS = Path("data"), Path("~/.cache/attnserve/train")


def train(
    config: Annotated[str | None, typer.Argument(help="A shipped recipe's name (transformer-en-de), or a .toml file.")] = None,
    data: DataOption = DATA,
    runs: RunsOption = RUNS,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    epochs: Annotated[int | None, typer.Option(help="Stop after this many epochs (default: the recipe's).")] = None,
    taught: Annotated[
        Path | None, typer.Option(help="The teacher's translations of the training sources, .gz or plain, if the recipe has one.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, such as schedule.epochs=12. Repeatable."),
    ] = None,
    queue: Annotated[
        str | None, typer.Option(help="Train all runs of a queue that are not finished: a shipped queue's name, or a .toml file.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="With --queue: number of concurrent runs (default: 1).")] = None,
    minutes: Annotated[float | None, typer.Option(help="With --queue: stop after this many minutes.")] = None,
    is_list: Annotated[bool, typer.Option("--list", help="With --queue: list the runs and their progress.")] = False,
) -> None:
    """Train a model by its recipe; an interrupted run continues from its last checkpoint."""
    if (config is None) == (queue is None):
        raise typer.BadParameter("give a recipe or --queue", param_hint="CONFIG")
    if queue is None:
        _refuse({"--jobs": jobs, "--minutes": minutes, "--list": is_list or None}, "applies only with --queue")
    else:
        _refuse({"--set": changes or None, "--epochs": epochs, "--taught": taught}, "does not apply to --queue")
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise typer.BadParameter(f"must be cpu or cuda, not {device!r}", param_hint="--device")
    runs = runs.expanduser()
    try:
        if queue is not None:
            _train_queue(queue, data, runs, device=device, jobs=jobs or 1, minutes=minutes, is_list=is_list)
        elif config is not None:
            folder = _train_one(config, _parsed(changes or []), data, runs, device=device, epochs=epochs, taught=taught)
            typer.echo(f"the run is {folder}{_export_of(config, changes or [], data, runs, folder)}", err=True)
    except (RecipeError, FileNotFoundError, FloatingPointError) as error:
        raise typer.Exit(_complain(error)) from error


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Refuses the first option that was given, so that none is ignored; ``options`` has None for those that were not.

    Raises:
        typer.BadParameter: names the option and says why.
    """
    for option, value in options.items():
        if value is not None:
            raise typer.BadParameter(why, param_hint=option)


def _train_one(
    config: str, changes: dict[str, Any], data: Path, runs: Path, *, device: str, epochs: int | None, taught: Path | None
) -> Path:
    """Trains by one recipe; returns the folder of the run."""
    keep_freed_memory()
    import torch

    from attnserve_export.training.run import Stopped
    from attnserve_export.training.start import folder_name, train_by

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RecipeError(f"--device {device}: PyTorch {torch.__version__} finds no CUDA device")
    torch.set_num_threads(1)
    recipe, folder = load_recipe(config, changes), runs / folder_name(config, changes)
    try:
        train_by(recipe, data, folder, device=device, epochs=epochs, taught=taught)
    except Stopped as stopped:
        typer.echo(stopped, err=True)
    return folder


def _export_of(config: str, changes: list[str], data: Path, runs: Path, folder: Path) -> str:
    """Returns in words the command that exports a run; empty if the run has nothing to export yet."""
    from attnserve_export.training.start import is_exportable

    if not is_exportable(load_recipe(config, _parsed(changes)), folder):
        return ""
    options = [part for change in changes for part in ("--set", change)]
    options += [] if data == DATA else ["--data", str(data)]
    options += [] if runs == RUNS.expanduser() else ["--runs", str(runs)]
    return f"; `{shlex.join(['attnserve', 'export', config, *options])}` exports it"


def _train_queue(queue: str, data: Path, runs: Path, *, device: str, jobs: int, minutes: float | None, is_list: bool) -> None:
    from attnserve_export.training.queue import QueueRunner, read_queue

    ends_at = math.inf if minutes is None else time.monotonic() + minutes * 60
    runner = QueueRunner(read_queue(queue, device), data, runs, device, jobs, lambda: time.monotonic() > ends_at)
    if is_list:
        typer.echo(runner.table())
    elif runner.run():
        raise typer.Exit(1)


def _parsed(changes: list[str]) -> dict[str, Any]:
    """Parses KEY=VALUE pairs. A value is JSON (numbers, true, quoted text), or else plain text."""
    found: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise RecipeError(f"--set takes KEY=VALUE, not {change!r}")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def export(
    config: Annotated[str, typer.Argument(metavar="ID", help="A shipped recipe's name, which is the model's id, or a .toml file.")],
    data: DataOption = DATA,
    runs: RunsOption = RUNS,
    models: Annotated[Path, typer.Option(help="Model repository to write to.")] = Path("deploy/models"),
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "1",
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As given to `attnserve train`. Repeatable.")
    ] = None,
    from_bundle: Annotated[
        bool, typer.Option("--from-bundle", help="Take weights, tokenizer and training record from the existing bundle.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="Export nothing: write this output of `attnserve evaluate` into the bundle's card.")
    ] = None,
    golden: Annotated[
        bool, typer.Option("--golden", help="Export nothing: write golden answers into the bundle that is there.")
    ] = False,
) -> None:
    """Export a trained model to a bundle; fails if ONNX Runtime and PyTorch disagree."""
    if from_bundle or golden or record is not None:
        _refuse({"--set": changes or None}, "does not apply to --from-bundle, --golden and --record")
    from attnserve_export.bundles import export_bundle, renew_golden_answers
    from attnserve_export.exporter import ExportError
    from attnserve_export.recording import record as record_evaluation
    from attnserve_export.trained import run_folder, trained_in_bundle, trained_in_run

    try:
        folder = models / _model_id(config) / version
        if record is not None:
            typer.echo(record_evaluation(folder, record.read_bytes()))
        elif golden:
            typer.echo(renew_golden_answers(folder))
        elif from_bundle:
            typer.echo(export_bundle(trained_in_bundle(folder), data, models, version))
        else:
            changed = _parsed(changes or [])
            recipe = load_recipe(config, changed)
            run = run_folder(recipe, runs.expanduser(), config, changed)
            typer.echo(export_bundle(trained_in_run(recipe, run), data, models, version))
    except (RecipeError, FileNotFoundError, ExportError) as error:
        raise typer.Exit(_complain(error)) from error


def _model_id(config: str) -> str:
    """Returns the model's id: a file's recipe has it, any other name is one."""
    return load_recipe(config).model_id if Path(config).suffix == ".toml" else config


def keep_freed_memory() -> None:
    """Restarts the process with an allocator that keeps freed pages: page faults take up to half of a training step."""
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **_MALLOC})


def _complain(error: Exception) -> int:
    typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
    return 1
