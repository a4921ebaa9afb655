# SPDX-License-Identifier: Apache-2.0
"""The word check of `make check` (`tests/words.py`): the repository has no hit, and planted hits are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MODULE = '''"""Docstring:
who waits."""

name = "nobody"  # a text of one word is an identifier, not prose
whoever = f"{name} in vain"  # a variable is not prose


def test_somebody_waits(who: int) -> None:
    """Waits without
    any
    body; the text of an expression is code: {who}."""
    raise ValueError(f"no one {who} waits")  # for everyone
'''
FILES = {
    "module.py": (MODULE, ["2: who", "5: in vain", "8: somebody", "12: everyone", "12: no one"]),
    "page.md": ("# Title\n\nNo\none waits, `nobody` neither, and a\nperson who reads, for\nwhom.\n", ["3: No one", "6: whom"]),
    "service.proto": ("// What no\n// one reads.\nstring company = 1;  // Company.\n", ["1: no one", "3: Company", "3: company"]),
    "settings.toml": ('# feels\nname = "all the books"\n', ["1: feels", "2: books"]),
    "Makefile": ("help: ## Mend it\n", ["1: Mend"]),
    "sentences.txt": ("Nobody waits.\n", []),
}


def check(*paths: Path) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.words", *paths], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_repository_has_no_word_of_the_list() -> None:
    assert check() == (0, [])


@pytest.mark.parametrize("name", FILES)
def test_planted_words_are_found(tmp_path: Path, name: str) -> None:
    text, expected = FILES[name]
    (tmp_path / name).write_text(text)
    code, lines = check(tmp_path / name)
    assert [line.removeprefix(f"{tmp_path / name}:").split(" -> ")[0] for line in lines] == expected
    assert code == bool(expected)


def test_each_hit_has_a_suggestion(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Its company.\n")
    assert check(page) == (1, [f"{page}:1: company -> batch mates"])
