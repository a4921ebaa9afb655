# SPDX-License-Identifier: Apache-2.0
"""The documentation agrees with the code: link targets, paths and names exist, and pages are short."""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("server/attnserve_server", "export/attnserve_export", "clients/python/attnserve_client", "loadtest/attnserve_loadtest")
PLACES = (*PACKAGES, "tests")
"""Folders that paths in the documentation may be relative to, beside the repository and the page's own folder."""
GENERATED = "api.md"
MAP_LINES, PAGE_LINES, DECISION_LINES = 130, 80, 40
PARTS = ("Context", "Decision", "Evidence", "Status")
DECISION = re.compile(r"(\d{4})-[a-z0-9-]+\.md")

_PATH = re.compile(r"(?P<path>\.?[\w…][\w.…*-]*/[\w.…*/-]*)(?:: (?P<name>\w+(?:\.\w+)*))?")
_METHOD = re.compile(r"[A-Z]\w+\.\w+")
_TEST = re.compile(r"test_\w+")
_PICTURE = re.compile(r'<img\b[^>]*?\bsrc="([^"]+)"')


def markdown_files(root: Path) -> list[Path]:
    """All Markdown files except those of hidden and built folders."""
    files = (file for file in root.rglob("*.md") if not {"results", "build", "dist"} & set(file.relative_to(root).parts[:1]))
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(root).parts))


def inline(text: str) -> Iterator[Token]:
    """All inline tokens of a page."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield from token.children or ()


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings have on GitHub."""
    found: dict[str, int] = {}
    tokens = MarkdownIt().parse(text)
    for before, token in itertools.pairwise(tokens):
        if before.type == "heading_open":
            plain = "".join(child.content for child in token.children or () if child.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{number}" if number else slug for slug, count in found.items() for number in range(count + 1)}


def targets(text: str) -> Iterator[str]:
    """What a page's links and pictures name, those of ``<img>`` tags too."""
    for token in inline(text):
        yield str(token.attrs.get("href" if token.type == "link_open" else "src", ""))
    yield from _PICTURE.findall(text)


def link_faults(root: Path) -> list[str]:
    """Links and pictures whose file or heading does not exist."""
    faults = []
    for page in markdown_files(root):
        for target in targets(page.read_text(encoding="utf-8")):
            if not target or re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            if not file.exists():
                faults.append(f"{page.relative_to(root)}: {target}")
            elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
                faults.append(f"{page.relative_to(root)}: {target} (no such heading)")
    return faults


@functools.cache
def names_of(file: Path) -> frozenset[str]:
    """What a Python file defines: functions, classes, their methods and attributes, and constants."""
    found: set[str] = set()

    def walk(nodes: list[ast.stmt], prefix: str) -> None:
        for node in nodes:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found.add(prefix + name)
                case ast.ClassDef(name=name):
                    found.add(prefix + name)
                    walk(node.body, f"{prefix}{name}.")
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    found.add(prefix + name)

    walk(ast.parse(file.read_text(encoding="utf-8")).body, "")
    return frozenset(found)


def title_faults(link: Token, page: Path) -> list[str]:
    """A link to a file of tests names tests of this file in its title; returns the names that the file lacks."""
    target, names = str(link.attrs.get("href", "")), re.findall(r"[\w.]+", str(link.attrs.get("title", "")))
    if not re.search(r"/test_\w+\.py$", target):
        return []
    file = page.parent / target
    found = names_of(file) if file.exists() else frozenset()
    return [f"{target}: {name or 'no test in the title'}" for name in names or [""] if name not in found]


def name_faults(page: Path, root: Path = ROOT) -> list[str]:
    """Names on a page that the repository lacks: paths, names after paths, methods, and tests, in code style or in a link's title."""
    faults = []
    methods = {name for package in PACKAGES for file in (root / package).rglob("*.py") for name in names_of(file) if "." in name}
    tests = {name for file in (root / "tests").rglob("test_*.py") for name in names_of(file)}
    for token in inline(page.read_text(encoding="utf-8")):
        if token.type == "link_open":
            faults += title_faults(token, page)
        if token.type != "code_inline":
            continue
        if found := _PATH.fullmatch(token.content):
            files = [file for place in ("", *PLACES, page.parent) for file in (root / place).glob(found["path"].replace("…", "**"))]
            if not files or (found["name"] and not any(found["name"] in names_of(file) for file in files)):
                faults.append(token.content)
        elif (_METHOD.fullmatch(token.content) and token.content not in methods) or (
            _TEST.fullmatch(token.content) and token.content not in tests
        ):
            faults.append(token.content)
    return faults


def decision_faults(folder: Path) -> list[str]:
    """Decisions that are too long, lack a part, have another number than their file, or are not in the index."""
    faults = []
    index = (folder / "README.md").read_text(encoding="utf-8")
    files = sorted(file for file in folder.glob("*.md") if file.name != "README.md")
    for number, file in enumerate(files, 1):
        text = file.read_text(encoding="utf-8")
        found = DECISION.fullmatch(file.name)
        if found is None or int(found[1]) != number or not text.startswith(f"# {number}. "):
            faults.append(f"{file.name}: not decision {number}, in name and title")
        if len(text.splitlines()) > DECISION_LINES:
            faults.append(f"{file.name}: more than {DECISION_LINES} lines")
        faults += [f"{file.name}: no {part}" for part in PARTS if f"**{part}.**" not in text]
        if f"({file.name})" not in index:
            faults.append(f"{file.name}: not in the index")
    return faults


def page_faults(folder: Path) -> list[str]:
    """Pages of the documentation that are too long, or are not in the index."""
    index = (folder / "README.md").read_text(encoding="utf-8")
    faults = []
    for page in sorted(folder.glob("*.md")):
        if page.name != GENERATED and len(page.read_text(encoding="utf-8").splitlines()) > PAGE_LINES:
            faults.append(f"{page.name}: more than {PAGE_LINES} lines")
        if page.name != "README.md" and f"({page.name})" not in index:
            faults.append(f"{page.name}: not in the index")
    return faults


def test_every_link_leads_somewhere() -> None:
    assert len(markdown_files(ROOT)) > 30
    assert link_faults(ROOT) == []


def test_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A `b` c …\n\n[1](b.md) ![2](c.png) [3](#a-b-c-) [4](#d) [5](https://e.org) `[6](f)`\n")
    assert link_faults(tmp_path) == ["a.md: b.md", "a.md: c.png", "a.md: #d (no such heading)"]
    (tmp_path / "b.md").write_text("# D\n\n# D\n\n| e |\n| --- |\n| [7](a.md#d) |\n\n[8](#d-1)\n")
    assert "b.md: a.md#d (no such heading)" in link_faults(tmp_path)
    assert not [fault for fault in link_faults(tmp_path) if "#d-1" in fault]
    (tmp_path / "c.md").write_text('<img alt="8" src="b.md"> <img src="e.png" width="9">\n')
    assert [fault for fault in link_faults(tmp_path) if fault.startswith("c.md")] == ["c.md: e.png"]


PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "loadtest/results/HISTORY.md")),
    *(ROOT / "tests/reference").glob("*.md"),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name != GENERATED),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_names_of_a_page_are_there(page: Path) -> None:
    assert name_faults(page) == []


def test_path_or_name_that_is_not_there_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    good = "`dataplane/plane.py: DataPlane.submit` `export/…/tasks.py` `tests/reference/` `EngineLoop.step` `/metrics` `models/<paper>.py`"
    bad = ["dataplane/plain.py", "dataplane/plane.py: DataPlane.ask", "server/…/nothing.py", "EngineLoop.jump", "test_of_nothing"]
    page.write_text(f"{good}\n\n| a |\n| --- |\n| {' '.join(f'`{each}`' for each in bad)} |\n", encoding="utf-8")
    assert name_faults(page) == bad


def test_link_to_tests_whose_title_names_no_test_of_the_file_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_a.py").write_text("def test_b() -> None: ...\n\n\ndef test_c() -> None: ...\n")
    page.write_text(
        '[1](tests/test_a.py "test_b, test_c")\n\n| 2 |\n| --- |\n| [3](tests/test_a.py "test_b, test_d") [4](tests/test_a.py) |\n'
    )
    assert name_faults(page) == ["tests/test_a.py: test_d", "tests/test_a.py: no test in the title"]


def test_map_is_short() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= MAP_LINES


def test_pages_are_short_and_in_the_index() -> None:
    assert len(list((ROOT / "docs").glob("*.md"))) > 5
    assert page_faults(ROOT / "docs") == []


def test_decisions_are_short_whole_and_in_the_index() -> None:
    assert len(list((ROOT / "docs/decisions").glob("*.md"))) > 25
    assert decision_faults(ROOT / "docs/decisions") == []


def test_faults_of_pages_and_decisions_are_seen(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("[a](0001-a.md)\n")
    (tmp_path / "0001-a.md").write_text("# 1. A\n\n**Context.** **Decision.** **Evidence.** **Status.**\n")
    assert decision_faults(tmp_path) == []
    assert page_faults(tmp_path) == []
    (tmp_path / "0003-b.md").write_text("# 3. B\n\n**Context.** **Decision.** **Evidence.**\n" + "\n" * 80)
    assert decision_faults(tmp_path) == [
        "0003-b.md: not decision 2, in name and title",
        "0003-b.md: more than 40 lines",
        "0003-b.md: no Status",
        "0003-b.md: not in the index",
    ]
    assert page_faults(tmp_path) == ["0003-b.md: more than 80 lines", "0003-b.md: not in the index"]
