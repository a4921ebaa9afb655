# SPDX-License-Identifier: Apache-2.0
"""Makes the dashboard for Grafana: ``python -m deploy.grafana.make_dashboard`` writes ``attnserve.json``, which is committed.

It needs grafana-foundation-sdk (extra ``dev``). The panels are in ``panels.py``.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import StackingConfig, VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableRefresh

from deploy.grafana.panels import ROWS
from deploy.grafana.queries import Panel, Query

OUT = Path(__file__).with_name("attnserve.json")
SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
COLUMNS, HEIGHT = 24, 8


def dashboard_json() -> str:
    """Returns the text of the dashboard."""
    made = (
        dashboard.Dashboard("attnserve")
        .uid("attnserve")
        .description("Traffic, errors, latency, batches, workers and devices of attnserve.")
        .tags(["attnserve"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .editable()
        .with_variable(dashboard.DatasourceVariable("source").label("Source").type("prometheus"))
    )
    for name, label, query in (
        ("job", "Job", "label_values(attnserve_build_info, job)"),
        ("instance", "Server", 'label_values(attnserve_build_info{job=~"$job"}, instance)'),
        ("model", "Model", 'label_values(attnserve_model_ready{job=~"$job"}, model)'),
    ):
        made.with_variable(
            dashboard.QueryVariable(name)
            .label(label)
            .query(query)
            .datasource(SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    numbers = itertools.count(1)
    for row in ROWS:
        made.with_row(dashboard.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            made.with_panel(_panel(panel, COLUMNS // min(len(row.panels), 3)).id(next(numbers)))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _panel(panel: Panel, width: int) -> stat.Panel | timeseries.Panel:
    kind = stat.Panel() if panel.is_number else _curves(panel)
    kind.title(panel.title).description(panel.description).datasource(SOURCE).unit(panel.unit).span(width).height(HEIGHT)
    for index, query in enumerate(panel.queries):
        kind.with_target(_target(query, chr(ord("A") + index)))
    return kind


def _curves(panel: Panel) -> timeseries.Panel:
    legend = VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
    curves = timeseries.Panel().legend(legend).min(0).fill_opacity(10)
    if panel.is_stacked:
        curves.stacking(StackingConfig().mode(StackingMode.NORMAL))
    return curves


def _target(query: Query, name: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the dashboard."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="file to write")
    parser.parse_args(arguments).out.write_text(dashboard_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
