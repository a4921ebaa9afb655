# SPDX-License-Identifier: Apache-2.0
"""The documentation's commands, programs and configuration files work, against a server of all shipped models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.pages import ROOT, Block, Pages, blocks_of, commands_of, form_faults, is_like
from tests.e2e.serving import MODELS, Server, serve

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("server"), "--workers", "1", "--models", str(MODELS)) as running:
        yield running


@pytest.fixture
def pages(server: Server, tmp_path: Path) -> Pages:
    return Pages(server, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_works(pages: Pages, page: Path) -> None:
    assert pages.faults(page.read_text(encoding="utf-8")) == []


def test_there_are_blocks_to_run() -> None:
    run = [block for page in PAGES for block in blocks_of(page.read_text(encoding="utf-8")) if block.reason is None]
    assert {block.language for block in run} >= {"python", "console", "toml"}


WRONG = {
    "command that fails": ("```console\n$ attnserve translate --nope\n```\n", "line 2: attnserve translate --nope ended with 2"),
    "other output": ("```console\n$ echo one\ntwo\n```\n", "line 2: echo one printed 'one\\n', not 'two\\n'"),
    "program that fails": ("\n```python\nprint(1)\n1 / 0\n```\n", 'File "{folder}/page.py", line 4'),
    "other print": ('```python\nprint("one")  # -> two\n```\n', "did not print 'two': one"),
    "prints in another order": ("```python\nprint(1)  # -> 2\nprint(2)  # -> 1\n```\n", "did not print '1'"),
    "setting that is none": ("```toml\n[engine]\nslot = 1\n```\n", "line 2: engine.slot: no such setting"),
    "server that is not asked": (
        "```python\nfrom attnserve_client import Client\nClient('127.0.0.1:8001').translate('')\n```\n",
        "empty",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_fault_in_a_page_is_seen(pages: Pages, tmp_path: Path, name: str) -> None:
    text, problem = WRONG[name]
    (fault,) = pages.faults(text)
    assert problem.format(folder=tmp_path) in fault


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```\nmake demo\n```\n", "line 2: the language '' is none of console, mermaid, python, text, toml"),
        ("```bash\nmake demo\n```\n", "line 2: the language 'bash' is none of"),
        ("<!-- not run: -->\n\n```console\n$ make demo\n```\n", "line 4: not run, without a reason"),
    ],
)
def test_block_that_evades_the_run_is_seen(text: str, problem: str) -> None:
    (fault,) = form_faults(text)
    assert problem in fault


def test_blocks_and_their_reasons() -> None:
    text = "# A\n\n```text\nb\n```\n\n<!-- not run: it installs -->\n```console\n$ c\n```\n\nd\n\n```python\ne\n```\n"
    assert blocks_of(text) == [Block("text", 4, "b\n"), Block("console", 9, "$ c\n", "it installs"), Block("python", 15, "e\n")]


def test_commands_with_their_output() -> None:
    block = Block("console", 5, "$ one \\\n  --two\nthree\nfour\n$ five\n")
    assert commands_of(block) == [(5, "one \\\n  --two", "three\nfour\n"), (9, "five", "")]


def test_dots_stand_for_any_text() -> None:
    assert is_like("one\n...\nfour\n", "one  \ntwo\nthree\nfour")
    assert is_like("score -0.1...", "score -0.12")
    assert not is_like("one\n...", "two\none\n")
