# SPDX-License-Identifier: Apache-2.0
"""Runs the code blocks of Markdown pages against a server.

A page's ``python`` blocks are one program. A line of the form ``… # -> text`` names a line that the program prints, in order. In a
``console`` block, a line that begins with ``$ `` is a command of a shell, which must succeed; the lines below it are its output (standard
error included), where they are given. ``...`` stands for any text, in both. A ``toml`` block is a configuration file of the server, and
``text`` and ``mermaid`` blocks are not code. A block below a comment ``<!-- not run: reason -->`` is left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from attnserve_server.config import load_config
from attnserve_server.errors import ConfigError
from tests.e2e.serving import Server

ROOT = Path(__file__).resolve().parents[2]
RUN = frozenset({"python", "console", "toml"})
SHOWN = frozenset({"text", "mermaid"})
GRPC_ADDRESS, HTTP_ADDRESS = "127.0.0.1:8001", "127.0.0.1:8002"
"""The addresses on the pages; they are replaced by those of the server under test."""

_SKIP = re.compile(r"<!--\s*not run:(.*)-->")
_EXPECTED = re.compile(r"#\s*->\s*(.+)$", re.MULTILINE)
_SECONDS = 100


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is the number of its first line of content, ``reason`` why it is not run, None where it is."""

    language: str
    line: int
    text: str
    reason: str | None = None


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found, before = [], None
    for token in MarkdownIt().parse(text):
        if token.type == "fence":
            skipped = _SKIP.search(before.content) if before is not None and before.type == "html_block" else None
            line = (token.map or [0])[0] + 2
            found.append(Block(token.info.strip(), line, token.content, skipped[1].strip() if skipped else None))
        before = token
    return found


def form_faults(text: str) -> list[str]:
    """Blocks without a known language, and blocks that are not run and give no reason."""
    faults = []
    for block in blocks_of(text):
        if block.language not in RUN | SHOWN:
            faults.append(f"line {block.line}: the language {block.language!r} is none of {', '.join(sorted(RUN | SHOWN))}")
        if block.reason == "":
            faults.append(f"line {block.line}: not run, without a reason")
    return faults


def is_like(expected: str, actual: str) -> bool:
    """Whether a text is the expected one, where ``...`` stands for any; spaces at the ends of lines do not count."""
    lines = ("\n".join(line.rstrip() for line in text.splitlines()).strip() for text in (expected, actual))
    wanted, got = lines
    return re.fullmatch(".*".join(map(re.escape, wanted.split("..."))), got, re.DOTALL) is not None


def commands_of(block: Block) -> list[tuple[int, str, str]]:
    """The commands of a console block: line, command, and expected output (empty where none is given)."""
    found: list[tuple[int, str, str]] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.startswith("$ "):
            found.append((number, line.removeprefix("$ "), ""))
        elif found:
            begin, command, output = found[-1]
            is_continued = command.endswith("\\")
            found[-1] = (begin, f"{command}\n{line}", output) if is_continued else (begin, command, f"{output}{line}\n")
    return found


class Pages:
    """Runs pages in a folder that looks like the checkout, with the commands of this interpreter's environment.

    Args:
        server: has all models.
        folder: empty; what a page writes into its current folder stays in it.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self._server, self._folder = server, folder
        for entry in ROOT.iterdir():
            if not entry.name.startswith(".") and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)
        (folder / ".venv").symlink_to(sys.prefix)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ATTNSERVE_")}
        path = os.pathsep.join([str(Path(sys.prefix, "bin")), kept.get("PATH", "")])
        self._environ = kept | {"ATTNSERVE_ADDRESS": server.target, "PATH": path, "COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb"}

    def faults(self, text: str) -> list[str]:
        """Runs the blocks of a page, and returns the failures."""
        blocks = [block for block in blocks_of(text) if block.reason is None]
        faults = form_faults(text)
        for block in blocks:
            if block.language == "console":
                for line, command, expected in commands_of(block):
                    faults += self._command_faults(line, command, expected)
            elif block.language == "toml":
                faults += self._config_faults(block)
        return faults + self._program_faults([block for block in blocks if block.language == "python"])

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self._folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_SECONDS,
        )

    def _here(self, text: str) -> str:
        return text.replace(GRPC_ADDRESS, self._server.target).replace(HTTP_ADDRESS, f"127.0.0.1:{self._server.http_port}")

    def _command_faults(self, line: int, command: str, expected: str) -> list[str]:
        done = self._run(["bash", "-c", self._here(command)])
        if done.returncode != 0:
            return [f"line {line}: {command} ended with {done.returncode}: {done.stdout}"]
        if expected and not is_like(self._here(expected), done.stdout):
            return [f"line {line}: {command} printed {done.stdout!r}, not {expected!r}"]
        return []

    def _config_faults(self, block: Block) -> list[str]:
        file = self._folder / "page.toml"
        file.write_text(block.text, encoding="utf-8")
        try:
            load_config({}, {}, file)
        except ConfigError as error:
            return [f"line {block.line}: {error}"]
        return []

    def _program_faults(self, blocks: Iterable[Block]) -> list[str]:
        lines: list[str] = []
        for block in blocks:  # lines keep their numbers, for tracebacks
            lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
        program = "\n".join(lines)
        if not program.strip():
            return []
        (self._folder / "page.py").write_text(self._here(program) + "\n", encoding="utf-8")
        done = self._run([sys.executable, "page.py"])
        if done.returncode != 0:
            return [f"the program ended with {done.returncode}: {done.stdout}"]
        printed = iter(done.stdout.splitlines())
        missing = [wanted for wanted in _EXPECTED.findall(program) if not any(is_like(wanted, line) for line in printed)]
        return [f"the program did not print {missing[0]!r}: {done.stdout}"] if missing else []
