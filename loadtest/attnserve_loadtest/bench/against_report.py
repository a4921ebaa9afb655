# SPDX-License-Identifier: Apache-2.0
"""The costs of two trees, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import json_format
from rich.table import Table

from attnserve_loadtest.bench import against
from attnserve_loadtest.bench.against import Bars, Comparison
from attnserve_loadtest.bench.report import machine
from attnserve_loadtest.bench.trees import Tree


def table(comparisons: Sequence[Comparison], trees: tuple[Tree, Tree], bars: Bars) -> Table:
    """A row for each point."""
    old, new = trees
    title = f"processor time of a request, {new.name} (new) over {old.name} (old), {len(comparisons[0].pairs)} pairs"
    found = Table("point", "median", "upper quartile", "pairs", "old, ms", "new, ms", "wall", "", title=title)
    for each in comparisons:
        costs = [1e3 * sum(pair[side].processor for pair in each.pairs) / len(each.pairs) for side in (0, 1)]
        found.add_row(
            each.point.name,
            f"{each.median:.3f} <= {bars.median:g}",
            f"{each.upper_quartile:.3f} <= {bars.quartile:g}",
            f"{min(each.ratios):.3f}-{max(each.ratios):.3f}",
            *(f"{cost:.3f}" for cost in costs),
            f"{each.wall_ratio:.3f}",
            "[green]within" if each.is_within(bars) else "[red]exceeded",
        )
    return found


def save_json(path: Path, comparisons: Sequence[Comparison], trees: tuple[Tree, Tree], bars: Bars, num_texts: int) -> None:
    """Writes every pair, the workload and the machine; times are in seconds of a request."""
    values = {
        "machine": machine(),
        "old": trees[0].name,
        "new": trees[1].name,
        "bars": dataclasses.asdict(bars),
        "server": {"variant": against.VARIANT, "workers": against.WORKERS, "slots": against.SLOTS},
        "workload": {"texts": num_texts, "blocks": against.BLOCKS, "warm_up": against.WARM_UP},
        "points": [_values(each, bars) for each in comparisons],
    }
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _values(comparison: Comparison, bars: Bars) -> dict[str, object]:
    point = comparison.point
    return {
        "name": point.name,
        "method": point.method,
        "clients": point.clients,
        "requests_of_a_block": point.requests,
        "options": json_format.MessageToDict(point.options, preserving_proto_field_name=True),
        "median": comparison.median,
        "upper_quartile": comparison.upper_quartile,
        "wall_median": comparison.wall_ratio,
        "is_within": comparison.is_within(bars),
        "ratios": comparison.ratios,
        "pairs": [{"old": dataclasses.asdict(old), "new": dataclasses.asdict(new)} for old, new in comparison.pairs],
    }
