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
from attnserve_server.profiling.measure import Profile, Share, Workload, profile_encode, profile_step
from attnserve_server.profiling.passes import PassWorkload, profile_pass


def profile(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="Model id; the newest version is profiled.")],
    models: Annotated[Path | None, typer.Option(help="Model repository; the one of attnserve if not given.")] = None,
    variant: Annotated[str, typer.Option(help="Variant of the bundle for the CPU, by name.")] = "auto",
    rows: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Rows of the step, or sources of the encoder run [32]; images of a single pass [1]."),
    ] = None,
    beam_size: Annotated[int, typer.Option(min=1, help="Rows per request.")] = 1,
    source_tokens: Annotated[int, typer.Option(min=1, help="Length of each source in pieces; ignored for images.")] = 16,
    position: Annotated[int, typer.Option(min=0, help="Target pieces before the step.")] = 12,
    attention: Annotated[bool, typer.Option("--attention", help="Compute the attention too.")] = False,
    size: Annotated[str, typer.Option(metavar="WxH", help="Input size of a single-pass model; its first one if not given.")] = "",
    encode: Annotated[bool, typer.Option("--encode", help="Profile the encoder instead of a step.")] = False,
    num_runs: Annotated[
        int | None, typer.Option("--runs", min=1, help="Number of runs, whose medians are shown [300]; of a single pass [30].")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw it into this file (needs the extra cli).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the time of a decode step, or of a single pass, on one core of this machine, by operator and by part of the paper.

    For a model that runs in a single pass, only --rows, --size and --attention describe the run.
    """
    try:
        bundle = _newest(models or default_models(), model_id, variant)
        if plot is not None and not plot.parent.is_dir():
            raise StartupError(f"cannot draw into {plot}: there is no such folder")
        if bundle.manifest.HasField("single_pass"):
            title, found = _pass(bundle, PassWorkload(rows or 1, _size(size), attention), num_runs or 30)
        else:
            workload = Workload(rows or 32, beam_size, source_tokens, position, attention)
            title, found = _step(bundle, workload, num_runs or 300, is_encoder=encode)
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


def _step(bundle: Bundle, workload: Workload, num_runs: int, *, is_encoder: bool) -> tuple[str, Profile]:
    """A title and the profile of a decode step, or of the encoder."""
    limits = bundle.manifest.limits
    most_source = limits.max_source_tokens + 1 if limits.max_source_tokens else workload.source_tokens
    for name, value, most in (
        ("--beam-size", workload.beam_size, limits.max_beam_size),
        ("--source-tokens", workload.source_tokens, most_source),
        ("--position", workload.position, limits.max_target_tokens - 1),
    ):
        if value > most:
            raise typer.BadParameter(f"at most {most} for {bundle.manifest.model_id}", param_hint=name)
    if is_encoder:
        title = f"{workload.rows} sources of {workload.source_tokens} pieces"
        return title, profile_encode(bundle, workload.rows, workload.source_tokens, num_runs)
    if workload.rows < workload.beam_size:
        raise typer.BadParameter(f"must be at least the beam size, {workload.beam_size}", param_hint="--rows")
    title = f"{workload.rows} rows, {workload.beam_size} per request, {workload.source_tokens} source pieces"
    return f"{title}, position {workload.position}", profile_step(bundle, workload, num_runs)


def _pass(bundle: Bundle, workload: PassWorkload, num_runs: int) -> tuple[str, Profile]:
    """A title and the profile of a single pass."""
    found = profile_pass(bundle, workload, num_runs)
    size = "x".join(map(str, workload.size)) if workload.size else "the first size"
    return f"{workload.images} images of {size}", found


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    width, cross, height = text.partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise typer.BadParameter("must be a width and a height, like 480x360", param_hint="--size")
    return int(width), int(height)


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
