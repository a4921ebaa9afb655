# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_loadtest.bench``: the served Transformer against CTranslate2 with the very same weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from attnserve_client.cli import output
from attnserve_client.errors import ToolError
from attnserve_client.evaluation import read_lines
from attnserve_export.bundles import stored_model
from attnserve_export.trained import trained_in_bundle
from attnserve_loadtest.bench import offline, online, report
from attnserve_loadtest.bench.contestants import Vocabulary
from attnserve_loadtest.bench.ctranslate2_model import save_ctranslate2
from attnserve_server.bundle.loader import Bundle, load_bundle
from attnserve_server.errors import StartupError

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "loadtest" / "results"
MODEL = ROOT / "deploy" / "models" / "transformer-en-de" / "1"
PARTS = ("offline", "online", "wire")


def bench(
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="ATTNSERVE_DATA", metavar="DIR", help="Folder of data sets, with multi30k/ in it; else the golden sentences."
        ),
    ] = None,
    model: Annotated[Path, typer.Option(metavar="DIR", help="A Transformer's bundle.")] = MODEL,
    part: Annotated[list[str] | None, typer.Option(help="offline, online or wire; all by default.")] = None,
    point: Annotated[str, typer.Option(metavar="TEXT", help="Only offline points whose name has this in it.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
    requests: Annotated[int, typer.Option(min=100, help="Requests at random arrivals, of each side.")] = 20_000,
    limit: Annotated[int | None, typer.Option(min=10, help="Only the first so many sentences.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where bench.json and bench.png go.")] = RESULTS,
) -> None:
    """Compare speed with CTranslate2: the same weights, one thread each, ratios of interleaved rounds."""
    parts = part or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        raise typer.BadParameter(f"no part {sorted(unknown)[0]!r}: there are {', '.join(PARTS)}")
    bundle = load_bundle(model, variant="fp32")
    sentences = _sentences(bundle, data, limit)
    chosen = [each for each in offline.POINTS if point in each.name] if "offline" in parts else []
    results: list[offline.PointResult] = []
    rows: list[report.Row] = []
    with tempfile.TemporaryDirectory() as name:
        folders = model, Path(name)
        save_ctranslate2(_module(model), bundle, folders[1])
        for each in chosen:
            with output.progress(each.name, offline.num_runs(each, rounds)) as note:
                results.append(offline.measure(each, folders, bundle, sentences, rounds, note))
            _add(rows, [report.point_row(results[-1])])
        found_online = found_wire = None
        if "online" in parts:
            found_online = _online(folders, bundle, sentences, results, (rounds, requests))
            _add(rows, report.online_rows(found_online))
        if "wire" in parts:
            with output.progress("through gRPC", 3 * rounds) as note:
                found_wire = online.measure_wire(model, sentences, rounds, note)
            _add(rows, report.wire_rows(found_wire))
    out.mkdir(parents=True, exist_ok=True)
    workload = {"sentences": len(sentences.texts), "data": "multi30k test_2016_flickr" if data else "golden", "rounds": rounds}
    report.save_json(out / "bench.json", rows, results, found_online, found_wire, workload)
    (out / "bench.md").write_text(report.markdown(rows) + "\n", encoding="utf-8")
    if found_online:
        report.save_plot(out / "bench.png", found_online)
    Console(width=None if Console().is_terminal else 200).print(report.table(rows))
    print(f"written to {out}")


def _add(rows: list[report.Row], new: list[report.Row]) -> None:
    """Keeps rows, and shows them as they come: the whole takes many minutes."""
    rows += new
    for row in new:
        print(f"{row.name}: {row.value.median:.2f} ({row.value.least:.2f}-{row.value.most:.2f}); {row.detail}", flush=True)


def _online(
    folders: tuple[Path, Path],
    bundle: Bundle,
    sentences: offline.Sentences,
    results: list[offline.PointResult],
    size: tuple[int, int],
) -> online.OnlineResult:
    """At a share of the peer's offline capacity, which is measured first where the offline points did not."""
    capacity_point = next(each for each in offline.POINTS if each.variant == "int8" and each.beam_size == 1)
    known = next((each for each in results if each.point == capacity_point), None)
    if known is None:
        with output.progress("the peer's capacity", None) as note:
            known = offline.measure(capacity_point, folders, bundle, sentences, 1, note)
    seconds = sorted(known.seconds[known.peer[0]])
    capacity = len(sentences.texts) / seconds[len(seconds) // 2]
    with output.progress("at random arrivals", online.num_online_runs(size[0])) as note:
        return online.measure_online(folders, sentences.texts, capacity, size, note)


def _sentences(bundle: Bundle, data: Path | None, limit: int | None) -> offline.Sentences:
    source, reference = ROOT / "tests" / "golden" / "sentences.en.txt", None
    if data is not None:
        source, reference = (data / "multi30k" / f"test_2016_flickr.{language}.gz" for language in ("en", "de"))
    texts = read_lines(source, limit)
    return offline.Sentences(texts, Vocabulary.of(bundle).encode(texts), read_lines(reference, limit) if reference else None)


def _module(folder: Path) -> Any:
    trained = trained_in_bundle(folder)
    vocab_size = load_bundle(folder, variant="fp32").manifest.vocabulary.size
    return stored_model(trained.recipe, trained.weights, vocab_size)


def main() -> None:
    """Entry point."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(bench)
    try:
        app(standalone_mode=True)
    except (StartupError, ToolError) as error:
        output.report(error)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
