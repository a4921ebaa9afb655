# SPDX-License-Identifier: Apache-2.0
"""The tables of the comparison with CTranslate2 in README.md and docs/speed.md, and the highest rates, are those of bench.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "loadtest" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SPEED = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
BENCH = (RESULTS / "bench.md").read_text(encoding="utf-8")
AVX2 = (RESULTS / "bench-avx2.md").read_text(encoding="utf-8")

README_HEAD, SPEED_HEAD = "| workload | fp32 | int8 |", "| workload | ratio | rounds | without VNNI | bar |"
NONE = "–"
ONLINE = "highest rate with p99 <= 50 ms, int8"
README_POINTS = {
    "batches, greedy search, one thread": ("greedy offline, fp32", "greedy offline, int8"),
    "batches, beam of 4, one thread": ("beam 4, fp32", "beam 4, int8"),
    "batches, greedy search, two workers": (None, "two workers on two cores, int8"),
    "one request at a time, one thread": ("batch 1, fp32", "batch 1, int8"),
    "requests/s with a p99 of at most 50 ms, through gRPC": (None, ONLINE),
}
"""The points of bench.md in each row of README.md: in fp32, and in int8."""
SPEED_POINTS = {
    "two workers on two cores, int8 (wall time)": "two workers on two cores, int8",
    "highest rate with p99 ≤ 50 ms, two workers, int8: attnserve's over CTranslate2's": ONLINE,
    "through gRPC over in-process, unary, int8": "through gRPC, unary, int8",
    "through gRPC over in-process, streaming, int8": "through gRPC, streaming, int8",
}
"""The points of bench.md that docs/speed.md names otherwise."""


def rows(text: str, head: str = "| point | ratio |") -> dict[str, list[str]]:
    """The rows of the table below a head, by their first cell; without marks of bold type."""
    lines = text[text.index(head) :].partition("\n\n")[0].splitlines()[2:]
    cells = ([cell.strip().strip("*").replace("&nbsp;", " ") for cell in line.strip("| ").split(" | ")] for line in lines)
    return {name: values for name, *values in cells}


def rates(bench: str) -> tuple[str, ...]:
    """The highest rates online, attnserve's and CTranslate2's, as the pages write them."""
    return tuple(f"{int(rate):,}" for rate in re.findall(r"(\d+)/s", rows(bench)[ONLINE][-1]))


def readme_faults(readme: str, bench: str) -> list[str]:
    """Rows of README.md that differ from bench.md, and rates that README.md lacks."""
    measured, found = rows(bench), rows(readme, README_HEAD)
    expected = {
        workload: [NONE if point is None else measured[point][0] for point in points] for workload, points in README_POINTS.items()
    }
    wrong = [workload for workload in expected | found if expected.get(workload) != found.get(workload)]
    ours, theirs = rates(bench)
    return wrong + ([] if f"{ours} requests/s against {theirs}." in readme else ["rates"])


def speed_faults(speed: str, bench: str, avx2: str) -> list[str]:
    """Rows of docs/speed.md that differ from bench.md, or from bench-avx2.md, and rates that docs/speed.md lacks."""
    measured, older, wrong = rows(bench), rows(avx2), []
    for name, values in rows(speed, SPEED_HEAD).items():
        point = SPEED_POINTS.get(name, name)
        ratio, rounds, bar, _ = measured.get(point, [""] * 4)
        if values != [ratio, rounds, older.get(point, [NONE])[0], bar]:
            wrong.append(name)
    ours, theirs = rates(bench)
    has_rates = f"at most {ours} requests/s" in speed and f"answers {theirs}." in speed
    return wrong + ([] if has_rates else ["rates"])


def test_readme_has_the_figures_of_the_benchmark() -> None:
    assert readme_faults(README, BENCH) == []


def test_page_of_speed_has_the_figures_of_the_benchmark() -> None:
    assert len(rows(SPEED, SPEED_HEAD)) == 10
    assert speed_faults(SPEED, BENCH, AVX2) == []


def changed(text: str, pattern: str) -> str:
    """The text with another last digit in the figure with which a pattern ends."""
    found = re.search(pattern, text)
    assert found is not None, pattern
    last = found.end() - 1
    return f"{text[:last]}{(int(text[last]) + 1) % 10}{text[last + 1 :]}"


def without(text: str, pattern: str) -> str:
    """The text without what a pattern finds."""
    assert re.search(pattern, text), pattern
    return re.sub(pattern, "", text, count=1)


@pytest.mark.parametrize(
    ("readme", "faults"),
    [
        (changed(README, r"\| batches, greedy search, one thread \| \S*\d"), ["batches, greedy search, one thread"]),
        (without(README, r"\| one request at a time, one thread \|.*\n"), ["one request at a time, one thread"]),
        (
            changed(README, r"\| batches, beam of \d"),
            ["batches, beam of 4, one thread", "batches, beam of 5, one thread"],
        ),
        (changed(README, r"\d,\d\d\d(?= requests/s)"), ["rates"]),
    ],
    ids=["figure", "missing row", "row of another point", "rate"],
)
def test_fault_of_the_readme_is_seen(readme: str, faults: list[str]) -> None:
    assert readme_faults(readme, BENCH) == faults


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        (r"\| batch 1, fp32 \| \*\*\d\.\d\d", "batch 1, fp32"),
        (r"\| beam 4, fp32 \| \S+ \| \S+\d", "beam 4, fp32"),
        (r"\| beam 4, int8 \| \S+ \| \S+ \| \S+\d", "beam 4, int8"),
        (r"\| greedy offline, fp32 \|.* ≥&nbsp;\d", "greedy offline, fp32"),
        (r"\| beam 4(?=, int8 \|)", "beam 5, int8"),
        (r"answers \d,\d\d\d", "rates"),
    ],
    ids=["ratio", "rounds", "without VNNI", "bar", "row of another point", "rate"],
)
def test_fault_of_the_page_is_seen(pattern: str, fault: str) -> None:
    assert speed_faults(changed(SPEED, pattern), BENCH, AVX2) == [fault]


@pytest.mark.parametrize(
    "pattern", [r"\| greedy offline, fp32 \| \*\*\d\.\d\d", r"\| highest rate.*?\| \d+(?=/s)"], ids=["ratio", "rate"]
)
def test_new_figure_of_the_benchmark_is_seen_on_both_pages(pattern: str) -> None:
    bench = changed(BENCH, pattern)
    assert len(readme_faults(README, bench)) == len(speed_faults(SPEED, bench, AVX2)) == 1
