# SPDX-License-Identifier: Apache-2.0
"""The table of all metrics in ``docs/metrics.md``, made from the code; ``python -m tests.contract.metrics_page`` writes it anew."""

from __future__ import annotations

from pathlib import Path

from tests.contract.surface import described

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
HEAD = "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n"
SUFFIXES = {"counter": "_total", "info": "_info"}
"""What Prometheus' text format adds to a name."""


def table() -> str:
    """The table with its head."""
    lines = (
        f"| `{name}{SUFFIXES.get(kind, '')}` | {kind} | {', '.join(labels) or '–'} | {text} |\n"
        for name, kind, labels, text in described()
    )
    return HEAD + "".join(lines)


def with_table(page: str) -> str:
    """The page with the table in place of its own, which ends at the first empty line."""
    before, found, rest = page.partition(HEAD)
    assert found, "the page has no table of metrics"
    _, _, after = rest.partition("\n\n")
    return f"{before}{table()}" + (f"\n{after}" if after else "")


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
