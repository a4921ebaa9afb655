# SPDX-License-Identifier: Apache-2.0
"""Two source trees with the same bundle and requests: the processor time per request of each tree's server.

The servers are used only through stable public interfaces: command-line flags, the ready file and gRPC. The engine is not run
in-process, because a change of the tree may move its modules; "offline greedy" therefore sends all texts of a block at once,
through ``Translate`` and without scores, so that slots are full as they are in ``offline.py``. The client is always that of the
tree which runs the bench, and its processor time does not count.

A pair starts a server of each tree and measures them in blocks of about 0.2 seconds, in the order ABBA, so that other load on the
machine affects both. The result is the ratio of their sums. Each pair starts new servers, so that the variation between starts
(addresses, hash seeds) is part of the spread.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnserve.v1.decoding_pb2 import DecodeOptions
from attnserve_client.demo.server import DemoServer
from attnserve_loadtest.bench.processor import processor_seconds
from attnserve_loadtest.bench.rounds import Cost
from attnserve_loadtest.bench.servers import STREAM, UNARY, address_of, closed_loop, quiet, server_process
from attnserve_loadtest.bench.trees import Tree

MEDIAN_BAR, QUARTILE_BAR = 1.03, 1.06
VARIANT, WORKERS, SLOTS = "int8", 2, 32
BLOCKS = 16
"""Blocks of each side in a pair; even, so that each side is first equally often."""
WARM_UP = 128
"""Requests of each point that a new server answers before it is measured."""


@dataclass(frozen=True, slots=True)
class Point:
    """One kind of load.

    Attributes:
        name: for the table.
        method: ``UNARY`` or ``STREAM``.
        clients: requests in flight.
        requests: per block.
        options: of every request.
    """

    name: str
    method: str
    clients: int
    requests: int
    options: DecodeOptions


POINTS = (
    Point("unary", UNARY, 96, 280, DecodeOptions()),
    Point("stream", STREAM, 96, 180, DecodeOptions()),
    Point("offline greedy", UNARY, 300, 300, DecodeOptions(omit_score=True)),
    Point("beam 4", UNARY, 32, 112, DecodeOptions(beam_size=4)),
)


Pair = tuple[Cost, Cost]
"""Mean costs of a request in a pair, of the old tree and of the new one."""


def ratio_of(pair: Pair) -> float:
    """Processor time of a request, new over old."""
    return pair[1].processor / pair[0].processor


@dataclass(frozen=True, slots=True)
class Bars:
    """Upper bounds of the ratios new over old.

    Attributes:
        median: bound of the median over pairs.
        quartile: bound of the upper quartile.
    """

    median: float = MEDIAN_BAR
    quartile: float = QUARTILE_BAR


@dataclass(frozen=True, slots=True)
class Comparison:
    """The measurements of a point in all pairs."""

    point: Point
    pairs: list[Pair]

    @property
    def ratios(self) -> list[float]:
        """Processor time of a request, new over old, of each pair."""
        return [ratio_of(pair) for pair in self.pairs]

    @property
    def median(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)

    @property
    def upper_quartile(self) -> float:
        """The upper quartile of the ratios, by linear interpolation; with one pair, its ratio."""
        ratios = self.ratios
        return statistics.quantiles(ratios, n=4, method="inclusive")[2] if len(ratios) > 1 else ratios[0]

    @property
    def wall_ratio(self) -> float:
        """The median ratio of wall times."""
        return statistics.median(new.wall / old.wall for old, new in self.pairs)

    def is_within(self, bars: Bars) -> bool:
        """Whether the ratios are within both bounds."""
        return self.median <= bars.median and self.upper_quartile <= bars.quartile


def measure_pair(
    trees: tuple[Tree, Tree], bundle: Path, texts: Sequence[str], points: Sequence[Point], note: Callable[[], None]
) -> list[Pair]:
    """Starts a server of each tree, and measures both.

    Args:
        trees: the old one and the new one.
        bundle: folder of the bundle that both serve, ``.../<model id>/<version>``.
        texts: asked in turn.
        points: what is measured.
        note: called after every point.

    Returns:
        A pair for each point.

    Raises:
        ToolError: a server does not start, or one of its processes ends.
        grpc.RpcError: a request failed.
    """
    pairs = []
    with _both(trees, bundle) as servers, quiet():
        addresses = [address_of(server) for server in servers]
        for point, address in itertools.product(points, addresses):
            _ask(address, point, itertools.islice(itertools.cycle(texts), WARM_UP))
        for point in points:
            pairs.append(_pair(servers, addresses, point, texts))
            note()
    return pairs


def order(num_blocks: int) -> list[int]:
    """The order of the sides' blocks, 0 and 1 each ``num_blocks`` times: ABBAABBA..."""
    return [side for block in range(num_blocks) for side in ((0, 1) if block % 2 == 0 else (1, 0))]


def _pair(servers: Sequence[DemoServer], addresses: Sequence[str], point: Point, texts: Sequence[str]) -> Pair:
    """Measures all blocks of a point; both sides receive the same texts in the same order."""
    processor, wall, count = [0.0, 0.0], [0.0, 0.0], BLOCKS * point.requests
    asked = [itertools.cycle(texts) for _ in servers]
    for side in order(BLOCKS):
        before = processor_seconds(servers[side].pid)
        wall[side] += _ask(addresses[side], point, itertools.islice(asked[side], point.requests))
        processor[side] += processor_seconds(servers[side].pid) - before
    old, new = (Cost(processor[side] / count, wall[side] / count) for side in (0, 1))
    return old, new


def _ask(address: str, point: Point, texts: Iterator[str]) -> float:
    """Sends the texts, and returns the seconds until the last answer."""
    return closed_loop(address, list(texts), point.method, point.clients, point.options).seconds


@contextlib.contextmanager
def alone(bundle: Path, tree: Tree | None = None) -> Iterator[Path]:
    """A model repository with this bundle's model only, so that servers start quickly.

    It is a copy without golden answers: servers of older trees refuse a manifest that names them. For a tree that does not know
    ``block_rows``, it is also without the graphs for blocks of rows, and of format version 1.
    """
    with tempfile.TemporaryDirectory(prefix="attnserve-models-") as name:
        folder = Path(name, bundle.resolve().parent.name, bundle.name)
        if bundle.is_dir():
            shutil.copytree(bundle, folder)
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            dropped = {manifest.pop("golden_file", "")} - {""}
            if tree is not None and not _knows_blocks(tree):
                dropped |= _without_blocks(manifest)
            for file in dropped:
                (folder / file).unlink()
            manifest["files"] = [file for file in manifest["files"] if file["name"] not in dropped]
            (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        yield Path(name)


def _knows_blocks(tree: Tree) -> bool:
    proto = tree.folder / "protos" / "attnserve" / "v1" / "manifest.proto"
    return proto.is_file() and "block_rows" in proto.read_text(encoding="utf-8")


def _without_blocks(manifest: dict[str, Any]) -> set[str]:
    """Removes the graphs for blocks of rows from a manifest; returns their files."""
    dropped: set[str] = set()
    for variant in manifest["variants"]:
        steps = variant["steps"]
        dropped |= {step["graph"]["file"] for step in steps if step.get("block_rows")}
        variant["steps"] = [step for step in steps if not step.get("block_rows")]
    manifest["format_version"] = 1
    manifest.pop("requires", None)
    return dropped


@contextlib.contextmanager
def _both(trees: tuple[Tree, Tree], bundle: Path) -> Iterator[list[DemoServer]]:
    """A server of each tree; they start at the same time."""
    flags = "--workers", str(WORKERS), "--slots", str(SLOTS)
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(alone(bundle, tree)) for tree in trees]
        yield [
            stack.enter_context(server_process(models, VARIANT, *flags, environment=tree.environment()))
            for models, tree in zip(folders, trees, strict=True)
        ]
