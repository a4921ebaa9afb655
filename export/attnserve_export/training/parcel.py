# SPDX-License-Identifier: Apache-2.0
"""Training runs as a few files of limited size: packed where they were trained, unpacked where they are used or go on.

``python -m attnserve_export.training.parcel pack OUT --runs DIR --queue four-models``, and elsewhere
``python -m attnserve_export.training.parcel unpack OUT --runs DIR``.
"""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from attnserve_export.cli import RUNS, RunsOption
from attnserve_export.recipe import RecipeError
from attnserve_export.training.files import LOCK, locked
from attnserve_export.training.queue import read_queue
from attnserve_export.training.run import BEST, CHECKPOINT, LOG, PROGRESS, SUMMARY

_SMALL = (SUMMARY, LOG, PROGRESS, "output.log", "val.pt")
_PIECE = "runs.tar.{:02d}"
_MIB = 1 << 20

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def pack(folders: Sequence[str], runs: Path, out: Path, piece_bytes: int, pieces: int) -> list[str]:
    """Writes what is worth keeping of runs. First the results of all finished runs; then, as far as there is room and in the order
    of ``folders``, the weights of finished runs and all that an unfinished run needs to go on.

    Args:
        folders: of the runs, below ``runs``; those that are not there are left out.
        runs: folder of all runs.
        out: folder of the pieces.
        piece_bytes: of a piece, at most.
        pieces: at most.

    Returns:
        What there was no room for.
    """
    there = [runs / name for name in dict.fromkeys(folders) if (runs / name / PROGRESS).exists()]
    small = [[each / name for name in _SMALL if (each / name).exists()] for each in there]
    finished = [(run / SUMMARY).exists() for run in there]
    wanted = [files for files, is_done in zip(small, finished, strict=True) if is_done]
    for run, files, is_done in zip(there, small, finished, strict=True):
        weights = [path for path in (run / BEST, *sorted((run / "samples").glob("*.png"))[-1:]) if path.exists()]
        wanted.append(weights if is_done else [*files, *weights, run / CHECKPOINT])
    buffer, left_out = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for files in wanted:
            size = sum(path.stat().st_size + 3 * tarfile.BLOCKSIZE for path in files)
            if buffer.tell() + size + tarfile.RECORDSIZE > piece_bytes * pieces:
                left_out += [str(path.relative_to(runs)) for path in files]
                continue
            for path in files:
                tar.add(path, str(path.relative_to(runs)))
    content = buffer.getvalue()
    out.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(content), piece_bytes)):
        (out / _PIECE.format(number)).write_bytes(content[start : start + piece_bytes])
    return left_out


def unpack(packed: Path, runs: Path, say: Callable[[str], object]) -> None:
    """Puts each packed run into ``runs`` if it is further than the one that is there, and no process trains that one.

    Raises:
        FileNotFoundError: there are no pieces in ``packed``.
    """
    pieces = sorted(packed.glob(_PIECE.format(0)[:-2] + "*"))
    if not pieces:
        raise FileNotFoundError(f"{packed} has no {_PIECE.format(0)}")
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs) as folder:
        with tarfile.open(fileobj=io.BytesIO(b"".join(piece.read_bytes() for piece in pieces))) as tar:
            tar.extractall(folder, filter="data")
        for given in sorted(Path(folder).iterdir()):
            say(f"{given.name}: {_put(given, runs / given.name)}")


def _put(given: Path, run: Path) -> str:
    run.mkdir(exist_ok=True)
    try:
        with locked(run / LOCK, waits=False):
            if _share_done(given) <= _share_done(run):
                return "left as it is, since it is as far"
            if (given / SUMMARY).exists():
                (run / CHECKPOINT).unlink(missing_ok=True)
            for path in _files(given):
                target = run / path.relative_to(given)
                target.parent.mkdir(exist_ok=True)
                path.replace(target)
            return f"{_share_done(run):.0%} done"
    except RecipeError as error:
        return f"left as it is: {error}"


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _share_done(run: Path) -> float:
    """From 0 to 1; less than 1 without a summary."""
    if (run / SUMMARY).exists():
        return 1.0
    if not (run / PROGRESS).exists() or not (run / CHECKPOINT).exists():
        return 0.0
    progress = json.loads((run / PROGRESS).read_text(encoding="utf-8"))
    return min(0.999, float(progress["epochs"]) / float(progress["of"]))


@app.command("pack")
def pack_command(
    out: Annotated[Path, typer.Argument(help="Folder of the pieces.")],
    queue: Annotated[str, typer.Option(help="Whose runs are packed, in the order of a GPU: a shipped name, or a .toml file.")],
    runs: RunsOption = RUNS,
    piece_mib: Annotated[int, typer.Option(min=1, help="Size of a piece, at most.")] = 15,
    pieces: Annotated[int, typer.Option(min=1, help="Number of pieces, at most.")] = 4,
) -> None:
    """Pack the runs of a queue."""
    folders = [part.folder for part in read_queue(queue, "cuda")]
    for name in pack(folders, runs.expanduser(), out, piece_mib * _MIB, pieces):
        typer.echo(f"no room for {name}")
    for path in sorted(out.glob("runs.tar.*")):
        typer.echo(f"{path.stat().st_size / _MIB:5.1f} MiB  {path}")


@app.command("unpack")
def unpack_command(
    packed: Annotated[Path, typer.Argument(help="Folder of the pieces.")],
    runs: RunsOption = RUNS,
) -> None:
    """Put packed runs among those that are here, unless the latter are further."""
    unpack(packed, runs.expanduser(), typer.echo)


if __name__ == "__main__":
    app()
