# SPDX-License-Identifier: Apache-2.0
"""The maker's commands, `attnserve train` and `attnserve export`: plugged into the client's command line by entry points."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from attnserve_export.recipe import RecipeError, load_recipe

_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "536870912"}

DataOption = Annotated[Path, typer.Option(envvar="ATTNSERVE_DATA", help="Folder of the data sets.")]
RunsOption = Annotated[Path, typer.Option(help="Folder of the training runs.")]


def train(
    config: Annotated[str, typer.Argument(help="A shipped recipe's name (transformer-en-de), or a .toml file.")],
    data: DataOption = Path("data"),
    runs: RunsOption = Path(".train"),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    epochs: Annotated[int | None, typer.Option(help="Stop after so many epochs (default: the recipe's).")] = None,
    taught: Annotated[
        Path | None, typer.Option(help="The teacher's translations of the training sources, .gz or plain, if the recipe has one.")
    ] = None,
) -> None:
    """Train a model by its recipe; a run that was killed goes on from its last checkpoint."""
    keep_freed_memory()
    import torch

    from attnserve_export.recipe import CaptionRecipe
    from attnserve_export.training.captions.trainer import CaptionTrainer
    from attnserve_export.training.trainer import Trainer

    torch.set_num_threads(1 if device == "cpu" else torch.get_num_threads())
    try:
        recipe = load_recipe(config)
        if isinstance(recipe, CaptionRecipe):
            if device != "cpu" or taught is not None:
                raise RecipeError("a captioning model is trained on the CPU, and has no teacher: leave out --device and --taught")
            CaptionTrainer(recipe, data, runs / recipe.model_id).run(epochs)
            return
        Trainer(recipe, data, runs / recipe.model_id, device, taught).run(epochs)
    except (RecipeError, FileNotFoundError) as error:
        raise typer.Exit(_complain(error)) from error


def export(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="Model id: the name of its recipe.")],
    data: DataOption = Path("data"),
    runs: RunsOption = Path(".train"),
    models: Annotated[Path, typer.Option(help="Model repository to write to.")] = Path("deploy/models"),
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "1",
    from_bundle: Annotated[
        bool, typer.Option("--from-bundle", help="Take weights, tokenizer and training record from the bundle that is there.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="Export nothing: write this output of `attnserve evaluate` into the bundle's card.")
    ] = None,
) -> None:
    """Export a trained model to a bundle; fails if ONNX Runtime does not compute what PyTorch computes."""
    from attnserve_export.bundles import export_bundle
    from attnserve_export.exporter import ExportError
    from attnserve_export.recording import record as record_evaluation
    from attnserve_export.trained import trained_in_bundle, trained_in_run

    folder = models / model_id / version
    try:
        if record is not None:
            typer.echo(record_evaluation(folder, record.read_bytes()))
        elif from_bundle:
            typer.echo(export_bundle(trained_in_bundle(folder), data, models, version))
        else:
            recipe = load_recipe(model_id)
            typer.echo(export_bundle(trained_in_run(recipe, runs / recipe.model_id), data, models, version))
    except (RecipeError, FileNotFoundError, ExportError) as error:
        raise typer.Exit(_complain(error)) from error


def keep_freed_memory() -> None:
    """Starts the process anew with an allocator that keeps freed pages: page faults take up to half of a training step."""
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **_MALLOC})


def _complain(error: Exception) -> int:
    typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
    return 1
