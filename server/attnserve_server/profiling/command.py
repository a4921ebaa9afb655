# SPDX-License-Identifier: Apache-2.0
"""`attnserve profile`: plugged into the client's command line by an entry point."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from attnserve_server.bundle.loader import Bundle, default_models, find_bundles, load_bundle
from attnserve_server.errors import StartupError
from attnserve_server.profiling.measure import Profile, Share, Workload, profile_encode, profile_pass, profile_step


def profile(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="Model id; the newest version is profiled.")],
    models: Annotated[Path | None, typer.Option(help="Model repository; the one of attnserve if not given.")] = None,
    variant: Annotated[str, typer.Option(help="Variant of the bundle for the CPU, by name.")] = "auto",
    rows: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Rows of the step, sources of the encoder run (32), or images of a batch (1)."),
    ] = None,
    beam_size: Annotated[int, typer.Option(min=1, help="Rows per request.")] = 1,
    source_tokens: Annotated[int, typer.Option(min=1, help="Length of each source in pieces; ignored for images.")] = 16,
    size: Annotated[str, typer.Option(metavar="WxH", help="Size of the input image; the first one if not given.")] = "",
    position: Annotated[int, typer.Option(min=0, help="Target pieces before the step.")] = 12,
    attention: Annotated[bool, typer.Option("--attention", help="Compute the attention too.")] = False,
    encode: Annotated[bool, typer.Option("--encode", help="Profile the encoder instead of a step.")] = False,
    num_runs: Annotated[
        int | None, typer.Option("--runs", min=1, help="Number of runs (300, or 30 of a single pass); medians are shown.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw it into this file (needs the extra cli).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the time of a decode step, or of a single pass, on one core of this machine, by operator and by part of the paper."""
    try:
        bundle = _newest(models or default_models(), model_id, variant)
        if plot is not None and not plot.parent.is_dir():
            raise StartupError(f"cannot draw into {plot}: there is no such folder")
        if bundle.variant.passes:
            title = f"batch of {rows or 1}{' with attention' if attention else ''}"
            found = profile_pass(bundle, size, rows or 1, num_runs or 30, wants_attention=attention)
        else:
            workload = Workload(rows or 32, beam_size, source_tokens, position, attention)
            title, found = _profile_decoder(bundle, workload, num_runs or 300, encode=encode)
        title = f"{model_id}, {bundle.variant.name}, {found.graph}: {title}"
        if plot is not None:
            _draw(plot, title, found)
    except (StartupError, RuntimeError) as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps({"model": model_id, "variant": bundle.variant.name, **dataclasses.asdict(found)}))
    else:
        _print(title, found)


def _profile_decoder(bundle: Bundle, workload: Workload, num_runs: int, *, encode: bool) -> tuple[str, Profile]:
    """Profiles a model that decodes step by step; returns what was run, and its times.

    Raises:
        typer.BadParameter: an option is above the model's limits.
    """
    limits, rows, source_tokens = bundle.manifest.limits, workload.rows, workload.source_tokens
    for name, value, most in (
        ("--beam-size", workload.beam_size, limits.max_beam_size),
        ("--source-tokens", source_tokens, limits.max_source_tokens + 1 if limits.max_source_tokens else source_tokens),
        ("--position", workload.position, limits.max_target_tokens - 1),
    ):
        if value > most:
            raise typer.BadParameter(f"at most {most} for {bundle.manifest.model_id}", param_hint=name)
    if encode:
        return f"{rows} sources of {source_tokens} pieces", profile_encode(bundle, rows, source_tokens, num_runs)
    if rows < workload.beam_size:
        raise typer.BadParameter(f"must be at least the beam size, {workload.beam_size}", param_hint="--rows")
    title = f"{rows} rows, {workload.beam_size} per request, {source_tokens} source pieces, position {workload.position}"
    return title, profile_step(bundle, workload, num_runs)


def _newest(models: Path, model_id: str, variant: str) -> Bundle:
    found = [path for path in find_bundles(models) if path.parent.name == model_id and path.name.isdigit()]
    if not found:
        known = ", ".join(sorted({path.parent.name for path in find_bundles(models)}))
        raise StartupError(f"no model {model_id!r} in {models}; there are {known}")
    return load_bundle(max(found, key=lambda path: int(path.name)), "cpu", variant)


def _print(title: str, found: Profile) -> None:
    console = Console(highlight=False)
    console.print(title)
    console.print(f"{found.seconds * 1e3:.3f} ms per run; {found.node_seconds * 1e3:.3f} ms of it in the graph's nodes\n")
    for name, shares in (("part", found.parts), ("operator", found.operators)):
        console.print(_table(name, shares, found.node_seconds))


def _table(name: str, shares: Sequence[Share], total: float) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in (name, "ms", "share", "nodes"):
        table.add_column(heading, justify="left" if heading == name else "right")
    for share in shares:
        table.add_row(share.name, f"{share.seconds * 1e3:.3f}", f"{share.seconds / total:.1%}", str(share.num_nodes))
    return table


def _draw(path: Path, title: str, found: Profile) -> None:
    try:
        from attnserve_server.profiling.picture import save_profile
    except ModuleNotFoundError as error:
        raise StartupError(f'drawing needs {error.name}: pip install "attnserve[cli]"') from error
    try:
        save_profile(path, title, found)
    except (OSError, ValueError) as error:
        raise StartupError(f"cannot draw into {path}: {error}") from error
