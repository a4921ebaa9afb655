# SPDX-License-Identifier: Apache-2.0
"""Files of a bundle reach a library only through ``Bundle``, and only the loader, which compares SHA-256 first, makes one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SERVER = Path(__file__).resolve().parents[2] / "server" / "attnserve_server"
PLACES = {
    "Bundle": {"bundle/loader.py"},
    "InferenceSession": {"execution/session.py"},
    "SentencePieceProcessor": {"tasks/text.py"},
    "load_library": set(),
    "register_custom_ops_library": set(),
}
"""Constructors and loaders, and the modules of the server that may call them."""


def calls(root: Path) -> dict[str, set[str]]:
    """The modules that call each name of ``PLACES``."""
    found: dict[str, set[str]] = {name: set() for name in PLACES}
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (name := ast.unparse(node.func).rpartition(".")[2]) in PLACES:
                found[name].add(path.relative_to(root).as_posix())
    return found


def test_only_the_loader_makes_a_bundle_and_one_module_opens_each_sort_of_file() -> None:
    assert calls(SERVER) == PLACES


@pytest.mark.parametrize("name", PLACES)
def test_planted_call_is_seen(tmp_path: Path, name: str) -> None:
    (tmp_path / "other.py").write_text(f"x = module.{name}(1)\n", encoding="utf-8")
    assert calls(tmp_path)[name] == {"other.py"}
