# SPDX-License-Identifier: Apache-2.0
"""Finds words that are not plain technical English in the prose of all tracked files: pronouns of people, and metaphors.

``python -m tests.words [path ...]`` prints ``file:line: word -> suggestion`` for each, and exits with 1 if there is one. Without
paths it reads the whole repository. Prose is documentation, comments, docstrings, texts of several words (messages, help), and
names of tests.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUGGESTIONS = {
    "who|whom|whoever|whomever": "name the process or object: a request that ..., the client that ...",
    "nobody|no one|anybody|anyone|somebody|someone|everybody|everyone": "name the process or object: no client, any request",
    "his|himself": "its, itself",
    "company": "batch mates",
    "house": "repository; batch",
    "rooms": "folders; capacity",
    "books": "accounting, counts",
    "feel|feels|felt": "is affected, is slower",
    "hear|hears|heard|something to say": "ready to emit; receives",
    "hope|hopes|hoard|hoards|heal|heals": "expects; accumulates; recovers",
    "in vain": "without a result",
    "mend|mends|mended": "fix",
    "dear|dearer|dearest": "expensive, slow",
    "beg[aiu]n again|begins again": "restart",
}
ALLOWED = ("people who", "person who", "user who", "in front of a house")
"""Persons and buildings, not processes."""
EXCLUDED = ("tests/words.py", "tests/contract/test_words.py")
"""The list itself, and its planted hits."""

WORDS = {re.compile(rf"\b(?:{words})\b".replace(" ", r"\s+"), re.IGNORECASE): hint for words, hint in SUGGESTIONS.items()}
PERSONS = re.compile("|".join(ALLOWED).replace(" ", r"\s+"), re.IGNORECASE)
TEXTS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def python_prose(source: str) -> str:
    """The comments, texts and names of tests, each at its own line."""
    lines = [""] * (source.count("\n") + 2)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        text = token.string
        if token.type in TEXTS:
            text = re.sub(r"\{[^{}]*\}", "{}", text)
            if not re.search(r"[a-z]\W* \W*[a-z]", text, re.IGNORECASE):
                continue
        elif token.type == tokenize.NAME and text.startswith("test_"):
            text = text.replace("_", " ")
        elif token.type != tokenize.COMMENT:
            continue
        for index, part in enumerate(text.splitlines(), token.start[0] - 1):
            lines[index] += " " + part.strip(" #")
    return "\n".join(lines)


def prose(file: Path) -> str:
    """The prose of a file, each word at its own line; none of a file that is not read."""
    if file.suffix == ".py":
        return python_prose(file.read_text(encoding="utf-8"))
    if file.suffix == ".md":
        return re.sub("`[^`\n]*`", " ", file.read_text(encoding="utf-8"))
    if file.suffix in {".c", ".proto", ".toml", ".yaml"} or file.name in {"Makefile", "run"}:
        return re.sub(r"^\s*(#|//|\*)+", " ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return ""


def hits(text: str) -> Iterator[tuple[int, str, str]]:
    """Yields line, word and suggestion."""
    text = PERSONS.sub(lambda found: re.sub(r"\S", "-", found[0]), text)
    for pattern, hint in WORDS.items():
        for found in pattern.finditer(text):
            yield text.count("\n", 0, found.start()) + 1, " ".join(found[0].split()), hint


def tracked(root: Path) -> list[Path]:
    """The files that git tracks, without generated stubs."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    return [root / name for name in names if name and name not in EXCLUDED and "_pb2" not in name]


def main(paths: list[str]) -> int:
    """Prints the hits; returns 1 if there are any."""
    code = 0
    for file in [Path(path) for path in paths] or tracked(ROOT):
        for line, word, hint in sorted(hits(prose(file))) if file.is_file() else ():
            print(f"{file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}:{line}: {word} -> {hint}")
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
