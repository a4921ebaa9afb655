# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_loadtest.bench``: compares the served Transformer with CTranslate2 on the same weights, or two trees."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from attnserve_client.cli import output
from attnserve_client.errors import ToolError
from attnserve_client.evaluation import read_lines
from attnserve_export.bundles import stored_model
from attnserve_export.trained import trained_in_bundle
from attnserve_loadtest.bench import against, against_report, offline, online, report, trees
from attnserve_loadtest.bench.contestants import Vocabulary
from attnserve_loadtest.bench.ctranslate2_model import save_ctranslate2
from attnserve_loadtest.gpu.running import end_on_sigterm
from attnserve_server.bundle.loader import Bundle, find_bundles, load_bundle
from attnserve_server.errors import StartupError

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "loadtest" / "results"
MODEL = ROOT / "deploy" / "models" / "transformer-en-de" / "1"
PARTS = ("offline", "online", "wire")
SINGLE_PASS = "single-pass"
"""The part that is a comparison of its own, with LitServe and BentoML."""
ROUNDS, PAIRS = 7, 9


def bench(
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="ATTNSERVE_DATA", metavar="DIR", help="Folder of data sets, with multi30k/ in it; else the golden sentences."
        ),
    ] = None,
    model: Annotated[Path, typer.Option(metavar="DIR", help="A Transformer's bundle.")] = MODEL,
    part: Annotated[
        list[str] | None, typer.Option(help="offline, online or wire; all three by default. Or single-pass, alone.")
    ] = None,
    point: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Only points (offline, or of --against) or models (single-pass) whose name contains this."
        ),
    ] = "",
    rounds: Annotated[
        int | None, typer.Option(min=1, help=f"Interleaved rounds [{ROUNDS}], or pairs of --against [{PAIRS}].")
    ] = None,
    requests: Annotated[int, typer.Option(min=100, help="Most requests to each side at random arrivals.")] = 20_000,
    limit: Annotated[int | None, typer.Option(min=10, help="Only this many sentences, from the first.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for bench.json and bench.png, or against.json.")] = RESULTS,
    tree: Annotated[
        str, typer.Option("--against", metavar="TREE", help="Compare with a checkout or commit; exit code 1 if slower.")
    ] = "",
    median_bar: Annotated[float, typer.Option(min=0, help="Largest median ratio to --against.")] = against.MEDIAN_BAR,
    quartile_bar: Annotated[float, typer.Option(min=0, help="Largest upper quartile of it.")] = against.QUARTILE_BAR,
) -> None:
    """Compare speed with CTranslate2 (same weights, one thread each) or with another source tree; ratios of interleaved rounds."""
    if tree and part:
        raise typer.BadParameter("--part belongs to the comparison with CTranslate2, not to --against")
    if part and SINGLE_PASS in part:
        return _single_pass(part, point, rounds or ROUNDS, out)
    if tree:
        texts = read_lines(_sources(data)[0], limit)
        return _against(tree, model, (texts, point, rounds or PAIRS), against.Bars(median_bar, quartile_bar), out)
    parts, rounds = _known(part or PARTS), rounds or ROUNDS
    bundle = load_bundle(model, variant="fp32")
    sentences = _sentences(bundle, data, limit)
    results: list[offline.PointResult] = []
    rows: list[report.Row] = []
    with tempfile.TemporaryDirectory() as name:
        folders = model, Path(name)
        save_ctranslate2(_module(model), bundle, folders[1])
        for each in [each for each in offline.POINTS if "offline" in parts and point in each.name]:
            with output.progress(each.name, offline.num_runs(each, rounds)) as note:
                results.append(offline.measure(each, folders, bundle, sentences, rounds, note))
            _add(rows, [report.point_row(results[-1])])
        found_online = found_wire = None
        if "online" in parts:
            with output.progress("at random arrivals", online.num_online_runs(rounds)) as note:
                found_online = online.measure_online(folders, sentences.texts, (rounds, requests), note)
            _add(rows, report.online_rows(found_online))
        if "wire" in parts:
            with output.progress("through gRPC", 3 * rounds) as note:
                found_wire = online.measure_wire(model, sentences, rounds, note)
            _add(rows, report.wire_rows(found_wire))
    workload = {"sentences": len(sentences.texts), "data": "multi30k test_2016_flickr" if data else "golden", "rounds": rounds}
    _save(out, rows, (results, found_online, found_wire), workload)


def _known(parts: Sequence[str]) -> Sequence[str]:
    if unknown := set(parts) - set(PARTS):
        raise typer.BadParameter(f"no part {sorted(unknown)[0]!r}: there are {', '.join(PARTS)}")
    return parts


def _save(
    out: Path,
    rows: list[report.Row],
    found: tuple[list[offline.PointResult], online.OnlineResult | None, online.WireResult | None],
    workload: dict[str, Any],
) -> None:
    """Writes the comparison with CTranslate2, and prints its table."""
    out.mkdir(parents=True, exist_ok=True)
    report.save_json(out / "bench.json", rows, *found, workload)
    (out / "bench.md").write_text(report.markdown(rows) + "\n", encoding="utf-8")
    if found[1]:
        report.save_plot(out / "bench.png", found[1])
    _show(report.table(rows), out)


def _single_pass(parts: Sequence[str], name: str, num_rounds: int, out: Path) -> None:
    """Compares the models that run in a single pass, whose id contains ``name``, with LitServe and BentoML."""
    from attnserve_loadtest.bench.passes import measure
    from attnserve_loadtest.bench.passes import report as passes_report

    if len(parts) > 1:
        raise typer.BadParameter(f"{SINGLE_PASS} runs alone")
    bundles = [load_bundle(path, variant="fp32") for path in find_bundles(MODEL.parents[1]) if name in path.parent.name]
    bundles = [each for each in bundles if each.manifest.HasField("single_pass") and each.manifest.task in measure.WORKS]
    if not bundles:
        raise typer.BadParameter(f"no single-pass model has {name!r} in its id")
    end_on_sigterm()
    results, out_rows = [], list[report.Row]()
    for each in bundles:
        with output.progress(each.manifest.model_id, measure.num_runs(each.manifest.task, num_rounds)) as note:
            results.append(measure.measure(each, num_rounds, note))
        _add(out_rows, passes_report.rows(results[-1]))
    out.mkdir(parents=True, exist_ok=True)
    passes_report.save(out, results, num_rounds)
    print(passes_report.text(results))
    print(f"written to {out}")
    if not all(row.is_reached for row in out_rows):
        raise typer.Exit(1)


def _show(table: Table, out: Path) -> None:
    Console(width=None if Console().is_terminal else 200).print(table)
    print(f"written to {out}")


def _against(tree: str, bundle: Path, work: tuple[list[str], str, int], bars: against.Bars, out: Path) -> None:
    """Compares this tree with another one; ``work`` is the texts, a part of the points' names, and the number of pairs."""
    texts, name, num_pairs = work
    points = [each for each in against.POINTS if name in each.name]
    if not points:
        raise typer.BadParameter(f"no point has {name!r} in its name: there are {', '.join(each.name for each in against.POINTS)}")
    with trees.checkout(tree, ROOT) as old:
        pair = old, trees.Tree.of(ROOT)
        found = [against.Comparison(each, []) for each in points]
        with output.progress(f"against {old.name}", num_pairs * len(points)) as note:
            for number in range(1, num_pairs + 1):
                costs = against.measure_pair(pair, bundle, texts, points, note)
                for comparison, cost in zip(found, costs, strict=True):
                    comparison.pairs.append(cost)
                    print(f"pair {number}, {comparison.point.name}: {against.ratio_of(cost):.3f}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    against_report.save_json(out / "against.json", found, pair, bars, len(texts))
    _show(against_report.table(found, pair, bars), out)
    if not all(each.is_within(bars) for each in found):
        raise typer.Exit(1)


def _add(rows: list[report.Row], new: list[report.Row]) -> None:
    """Keeps rows, and prints each when it is measured: the whole bench takes many minutes."""
    rows += new
    for row in new:
        print(f"{row.name}: {row.text(row.value.median)} ({row.rounds}); {row.detail}", flush=True)


def _sentences(bundle: Bundle, data: Path | None, limit: int | None) -> offline.Sentences:
    source, reference = _sources(data)
    texts = read_lines(source, limit)
    return offline.Sentences(texts, Vocabulary.of(bundle).encode(texts), read_lines(reference, limit) if reference else None)


def _sources(data: Path | None) -> tuple[Path, Path | None]:
    """The files of the sentences, and of their references if there are any."""
    if data is None:
        return ROOT / "tests" / "golden" / "sentences.en.txt", None
    source, reference = (data / "multi30k" / f"test_2016_flickr.{language}.gz" for language in ("en", "de"))
    return source, reference


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
