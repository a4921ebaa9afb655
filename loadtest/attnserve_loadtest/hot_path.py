# SPDX-License-Identifier: Apache-2.0
"""What attention costs: source length, attention asked for or not, and beam width, each combination under the same closed loop.

`python -m attnserve_loadtest.hot_path --address HOST:PORT` asks a running server with Locust's users, takes the attention's share
of a step from `attnserve profile` on this machine, and writes a table, JSON and a picture. Every answer has the same number of
pieces, so that what grows is the attended length alone.
"""

from __future__ import annotations

import grpc.experimental.gevent

grpc.experimental.gevent.init_gevent()

import argparse  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from dataclasses import asdict, dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from locust.env import Environment  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402
from rich.table import Table  # noqa: E402

from attnserve.v1 import decoding_pb2, translation_pb2, translation_pb2_grpc  # noqa: E402
from attnserve_loadtest import recording  # noqa: E402
from attnserve_loadtest.names import UNARY  # noqa: E402
from attnserve_loadtest.texts import read_texts  # noqa: E402
from attnserve_loadtest.users import TranslateUser  # noqa: E402

LENGTHS = (4, 8, 16, 32, 64, 128)
BEAMS = (1, 4)
ATTENTION_PARTS = ("cross-attention", "alignment")


@dataclass(frozen=True, slots=True)
class Point:
    """One combination and what it cost.

    Attributes:
        source_pieces: of each source, the end symbol included.
        attention: whether it was asked for.
        beam_size: hypotheses of a request.
        p50_ms: of a call, at the client.
        p99_ms: of a call, at the client.
        rate: answers a second.
        step_ms: a step of 32 rows without load, from the profile.
        attention_share: of the nodes' time in that step.
    """

    source_pieces: int
    attention: bool
    beam_size: int
    p50_ms: float
    p99_ms: float
    rate: float
    step_ms: float
    attention_share: float


class FixedText(TranslateUser):
    """Asks for one text, and for answers of a fixed length."""

    text = ""

    def on_start(self) -> None:
        """Connects, with options of its own."""
        super().on_start()
        size = self.environment.parsed_options.target_pieces
        self._texts = (self.text,)
        self._options.min_tokens = self._options.max_tokens = size


def text_of(stub: Any, num_pieces: int, model: str) -> str:
    """A text of so many source pieces, or the fewest more, end symbol included: words of the sentences, as many as that takes."""
    words = " ".join(read_texts()).split()
    low, high = 1, min(len(words), num_pieces)
    while low < high:
        middle = (low + high) // 2
        request = translation_pb2.TranslateRequest(
            text=" ".join(words[:middle]), model=model, options=decoding_pb2.DecodeOptions(max_tokens=1)
        )
        if len(stub.Translate(request, timeout=30).source_pieces) >= num_pieces:
            high = middle
        else:
            low = middle + 1
    return " ".join(words[:low])


def load(options: argparse.Namespace, text: str) -> tuple[float, float, float]:
    """p50 and p99 in milliseconds, and answers a second, of a closed loop over one text."""
    FixedText.text = text
    environment = Environment(user_classes=[FixedText], parsed_options=options)
    runner = environment.create_local_runner()
    runner.start(options.num_users, spawn_rate=1000)
    gevent.sleep(options.warm_up)
    recording.of(environment).take()
    began = time.perf_counter()
    gevent.sleep(options.seconds)
    seconds = time.perf_counter() - began
    latencies = recording.of(environment).latencies[UNARY]
    figures = latencies.percentile(0.5) * 1e3, latencies.percentile(0.99) * 1e3, len(latencies) / seconds
    runner.quit()
    failures = environment.stats.total.num_failures
    if failures:
        raise SystemExit(f"{failures} calls failed: {next(iter(environment.stats.errors.values())).error}")
    return figures


def profile(options: argparse.Namespace, length: int) -> tuple[float, float]:
    """Milliseconds of a step of 32 rows over sources of a length, and the share of it that attends."""
    flags = ["--source-tokens", str(length), "--beam-size", str(options.beam_size), "--runs", "100", "--json"]
    flags += ["--attention"] if options.attention else []
    command = [sys.executable, "-m", "attnserve_client.cli", "profile", options.profile_model, *flags]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    total = sum(part["seconds"] for part in found["parts"])
    return found["seconds"] * 1e3, sum(part["seconds"] for part in found["parts"] if part["name"] in ATTENTION_PARTS) / total


def sweep(options: argparse.Namespace) -> list[Point]:
    """All combinations, with a progress bar."""
    stub = translation_pb2_grpc.TranslationServiceStub(grpc.insecure_channel(options.address))
    combinations = list(itertools.product(options.lengths, (False, True), options.beams))
    points: list[Point] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("sweeping", total=len(combinations))
        for length, options.attention, options.beam_size in combinations:
            figures = load(options, text_of(stub, length, options.model))
            points.append(Point(length, options.attention, options.beam_size, *figures, *profile(options, length)))
            progress.advance(task)
    return points


def show(points: list[Point]) -> None:
    """Prints the table."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in (
        "source pieces",
        "attention",
        "beam",
        "p50 ms",
        "p99 ms",
        "answers/s",
        "step ms (32 rows)",
        "attention's share",
    ):
        table.add_column(heading, justify="right")
    for each in points:
        asked = "asked for" if each.attention else "-"
        figures = (
            f"{each.p50_ms:.1f}",
            f"{each.p99_ms:.1f}",
            f"{each.rate:.0f}",
            f"{each.step_ms:.2f}",
            f"{each.attention_share:.0%}",
        )
        table.add_row(str(each.source_pieces), asked, str(each.beam_size), *figures)
    Console(highlight=False, width=140).print(table)


def draw(path: Path, points: list[Point]) -> None:
    """Latency and the attention's share over the attended length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    kinds = itertools.product(sorted({each.beam_size for each in points}), (False, True))
    for (beam, attention), style in zip(kinds, itertools.cycle("osD^v<"), strict=False):
        chosen = [each for each in points if (each.beam_size, each.attention) == (beam, attention)]
        label, lengths = f"beam {beam}{', attention asked for' if attention else ''}", [each.source_pieces for each in chosen]
        left.plot(lengths, [each.p50_ms for each in chosen], marker=style, label=label)
        right.plot(lengths, [100 * each.attention_share for each in chosen], marker=style, label=label)
    for axes, heading in ((left, "p50 of a call, ms"), (right, "attention's share of a step, %")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({each.source_pieces for each in points}), labels=sorted({each.source_pieces for each in points}))
        axes.set_xlabel("source pieces")
        axes.set_title(heading, fontsize=10, loc="left")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Runs the sweep."""
    parser = argparse.ArgumentParser(prog="python -m attnserve_loadtest.hot_path", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--address", default="127.0.0.1:8001")
    parser.add_argument("--model", default="", help="Asked of the server; its default unless given.")
    parser.add_argument("--profile-model", default="transformer-en-de", help="Whose step is profiled.")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="Source pieces, the end symbol included.")
    parser.add_argument("--beams", type=int, nargs="+", default=list(BEAMS))
    parser.add_argument("--num-users", type=int, default=16, help="Closed-loop users.")
    parser.add_argument("--target-pieces", type=int, default=16, help="Length of every answer.")
    parser.add_argument("--seconds", type=float, default=5.0, help="Of each combination.")
    parser.add_argument("--warm-up", type=float, default=1.0, help="Seconds before each that are not counted.")
    parser.add_argument("--deadline", type=float, default=30.0)
    parser.add_argument("--output", type=Path, default=Path("loadtest/results"), help="Folder of hot_path.json and hot_path.png.")
    options = parser.parse_args()
    options.sentences = ""
    points = sweep(options)
    show(points)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "hot_path.json").write_text(json.dumps([asdict(each) for each in points], indent=1) + "\n", encoding="utf-8")
    draw(options.output / "hot_path.png", points)


if __name__ == "__main__":
    main()
