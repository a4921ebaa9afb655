# SPDX-License-Identifier: Apache-2.0
"""The committed dashboard is what the code makes, and all that it names exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

from deploy.grafana.make_dashboard import COLUMNS, OUT, dashboard_json, main
from deploy.grafana.panels import ROWS
from deploy.prometheus.recordings import RECORDINGS
from tests.contract.surface import described
from tests.contract.test_rules import METRIC, metric_faults

MADE = json.loads(dashboard_json())
PANELS = [panel for panel in MADE["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
NOT_SHOWN = {
    "attnserve_cache_bytes": "the share of hits says more",
    "attnserve_cache_entries": "as above",
    "attnserve_reloads": "in the log; a failed one has a log line and a runbook",
    "attnserve_reload_failures": "as above",
    "attnserve_spans_sent": "traces are off by default, and their receiver shows what arrives",
    "attnserve_spans_dropped": "as above",
    "attnserve_tls_handshakes": "it is for comparison with the number of requests",
    "attnserve_worker_last_message_age_seconds": "the silence of workers with work is shown",
}
"""Metrics without a panel, and why."""


def test_committed_dashboard_is_what_the_code_makes(tmp_path: Path) -> None:
    assert OUT.read_text(encoding="utf-8") == dashboard_json(), "python -m deploy.grafana.make_dashboard writes it"
    main(["--out", str(tmp_path / "dashboard.json")])
    assert (tmp_path / "dashboard.json").read_text(encoding="utf-8") == OUT.read_text(encoding="utf-8")


def test_every_metric_of_the_dashboard_is_one_of_the_server() -> None:
    assert metric_faults(" ".join(EXPRESSIONS)) == set()
    used = set(re.findall(r"\battnserve:\w+:\w+", " ".join(EXPRESSIONS)))
    assert used
    assert used <= {rule.name for rule in RECORDINGS}


def test_every_metric_has_a_panel_or_a_reason() -> None:
    named = set(METRIC.findall(" ".join(EXPRESSIONS)))
    bare = {re.sub("_(total|bucket|count|sum|info)$", "", name) for name in named} | named
    metrics = {name for name, *_ in described()}
    assert metrics - bare == set(NOT_SHOWN)


def test_every_query_is_of_the_chosen_servers() -> None:
    assert [expression for expression in EXPRESSIONS if 'job=~"$job"' not in expression] == []
    assert {variable["name"] for variable in MADE["templating"]["list"]} == {"source", "job", "instance", "model"}
    unknown = set(re.findall(r"\$\{?(\w+)", " ".join(EXPRESSIONS))) - {"job", "instance", "model", "__rate_interval"}
    assert unknown == set()


def test_panels_have_names_units_and_places_of_their_own() -> None:
    titles = [panel.title for row in ROWS for panel in row.panels]
    assert len(titles) == len(set(titles)) == len(PANELS) > 30
    assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS)
    assert len({panel["id"] for panel in MADE["panels"]}) == len(MADE["panels"])
    places = set[tuple[int, int]]()
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        own = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert not own & places, panel["title"]
        places |= own
