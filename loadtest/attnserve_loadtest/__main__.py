# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_loadtest``, or ``make loadtest``: starts a server, loads it with Locust, sweeps the attention hot path."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from attnserve_client.cli import output
from attnserve_client.cli.options import address_option
from attnserve_client.demo.server import DemoServer
from attnserve_client.errors import AttnserveError, ToolError
from attnserve_client.security import VARIABLES, Security
from attnserve_loadtest import hot_path, hot_path_maps
from attnserve_loadtest import slo as slo_texts
from attnserve_loadtest.connection import credentials_of
from attnserve_loadtest.recording import KINDS
from attnserve_server.bundle.loader import find_bundles

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
DEFAULT_OBJECTIVES = ("errors<0.1",)
SHAPES = {path.stem: path for path in (HERE / "shapes").glob("*.py") if path.stem not in ("__init__", "stages")}


def _file(name: str, text: str) -> Any:
    return typer.Option(envvar=VARIABLES[name], metavar="FILE", help=text)


def loadtest(
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="A running server; else one is started.", callback=address_option)
    ] = "",
    metrics_url: Annotated[str, typer.Option(metavar="URL", help="Metrics of the server at --address.")] = "",
    ca: Annotated[str, _file("ca", "CA of the certificate of the server at --address; turns TLS on.")] = "",
    cert: Annotated[str, _file("cert", "Certificate of the users.")] = "",
    key: Annotated[str, _file("key", "Private key of --cert.")] = "",
    token_file: Annotated[str, _file("token_file", "File with the users' token.")] = "",
    users: Annotated[int, typer.Option(min=1, help="Users at once.")] = 16,
    rate: Annotated[
        float, typer.Option(min=0, help="Open loop: requests a second of all users together; 0 for a closed loop.")
    ] = 0,
    seconds: Annotated[int, typer.Option(min=1, help="How long Locust runs.")] = 30,
    shape: Annotated[str, typer.Option(help=f"{', '.join(sorted(SHAPES))}; none by default.")] = "",
    kind: Annotated[str, typer.Option(help=f"{', '.join(KINDS)}.")] = "both",
    workers: Annotated[int, typer.Option(min=0, help="Locust processes beside the master; 0 for one process in all.")] = 0,
    slo: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Objective, such as Translate:p99<250; may be repeated.")
    ] = None,
    sweep: Annotated[
        bool, typer.Option(help="Sweep the attention hot paths as well; that of segmentation not with --address.")
    ] = True,
    quick: Annotated[bool, typer.Option(help="A small sweep.")] = False,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Where the reports go.")] = RESULTS,
) -> None:
    """Load a server and report; the exit code is 1 if an objective was not met."""
    objectives = slo or DEFAULT_OBJECTIVES
    security = Security(ca, cert, key, token_file) if address else Security()
    _check(shape, kind, objectives, results, security)
    with _server(address, metrics_url) as (target, metrics):
        files = [str(HERE / "locustfile.py"), *([str(SHAPES[shape])] if shape else [])]
        command = [sys.executable, "-m", "locust", "-f", ",".join(files), "--headless", "--only-summary", "--skip-log"]
        command += ["--host", target, "--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s"]
        command += ["--exit-code-on-error", "0", "--results", str(results), "--html", str(results / "locust.html")]
        command += ["--csv", str(results / "locust"), "--rate", str(rate / users)]
        command += ["--metrics-url", metrics] if metrics else []
        command += ["--processes", str(workers)] if workers else []
        for name, file in dataclasses.asdict(security).items():
            command += [f"--{name.replace('_', '-')}", file]
        command += [part for text in objectives for part in ("--slo", text)]
        code = subprocess.run([*command, *KINDS[kind]], check=False).returncode
        if sweep:
            hot_path.run(target, results, is_quick=quick, security=security)
    if sweep and not address and (bundle := hot_path_maps.find_segmentation(find_bundles(hot_path.MODELS))) is not None:
        hot_path_maps.run(bundle, results, is_quick=quick)
    raise typer.Exit(code)


def _check(shape: str, kind: str, objectives: Sequence[str], results: Path, security: Security) -> None:
    """Checks options before anything is started, and makes the folder of the reports.

    Raises:
        BadParameter: an option has a value that cannot be used.
        ToolError: a file of ``security`` cannot be used.
    """
    if shape and shape not in SHAPES:
        raise typer.BadParameter(f"no shape {shape!r}: there are {', '.join(sorted(SHAPES))}", param_hint="--shape")
    if kind not in KINDS:
        raise typer.BadParameter(f"no kind {kind!r}: there are {', '.join(KINDS)}", param_hint="--kind")
    try:
        for text in objectives:
            slo_texts.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--slo") from error
    credentials_of(security)
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{results} cannot be a folder: {error.strerror}", param_hint="--results") from error


@contextlib.contextmanager
def _server(address: str, metrics_url: str) -> Iterator[tuple[str, str]]:
    """Address and metrics URL of a server: the one that was named, or one that runs until the context ends."""
    if address:
        yield address, metrics_url
        return
    with DemoServer() as server:
        print("starting a server", file=sys.stderr)
        ports = server.wait_ready()
        yield f"127.0.0.1:{ports.grpc}", f"http://127.0.0.1:{ports.http}/metrics"


def main() -> None:
    """Entry point."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(loadtest)
    try:
        app()
    except (AttnserveError, ToolError) as error:
        output.report(error)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
