# SPDX-License-Identifier: Apache-2.0
"""No file is unpickled: neither by ``pickle`` nor by a library that calls it. Planted faults show that each rule can fail."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("clients", "export", "loadtest", "protos", "server", "tests")
MODULES = frozenset({"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"})
NAMES = frozenset(
    {"read_pickle", "load_legacy", "unsafe_load", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter"}
)
"""Functions that run code of a file, by last or full name."""


def _is_constant(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _call_fault(node: ast.Call) -> str:
    name, given = ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
    if name in NAMES or name.rpartition(".")[2] in NAMES:
        return name
    if name == "torch.load" and not _is_constant(given.get("weights_only"), True):
        return "torch.load without weights_only=True"
    if "allow_pickle" in given and not _is_constant(given["allow_pickle"], False):
        return f"{name} with allow_pickle"
    if name == "yaml.load":
        return name
    return ""


def pickle_faults(source: str) -> Iterator[str]:
    """Imports and calls of a module that may unpickle a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            from_module = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names = {name.split(".")[0] for name in [*from_module, *(each.name for each in node.names if not from_module)]}
            yield from (f"{node.lineno}: imports {name}" for name in sorted(names & MODULES))
            if from_module == ["torch"]:
                yield from (f"{node.lineno}: imports load by itself" for each in node.names if each.name == "load")
        elif isinstance(node, ast.Call) and (fault := _call_fault(node)):
            yield f"{node.lineno}: {fault}"


def test_no_module_unpickles_a_file() -> None:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 100
    found = [f"{path.relative_to(ROOT)}:{fault}" for path in files for fault in pickle_faults(path.read_text(encoding="utf-8"))]
    assert found == []
    assert any("torch.load(" in path.read_text(encoding="utf-8") for path in files if "export" in path.parts)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import numpy, pickle",
        "from pickle import loads",
        "import joblib.externals",
        "from torch import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "pandas.read_pickle(path)",
        "torch.jit.load(path)",
        "yaml.load(text, Loader=x)",
    ],
)
def test_planted_fault_is_seen(source: str) -> None:
    assert list(pickle_faults(source))


@pytest.mark.parametrize(
    "source", ["torch.load(path, weights_only=True)", "np.load(path)", "np.load(path, allow_pickle=False)", "import torch"]
)
def test_safe_call_is_accepted(source: str) -> None:
    assert list(pickle_faults(source)) == []
