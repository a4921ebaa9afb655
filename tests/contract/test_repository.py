# SPDX-License-Identifier: Apache-2.0
"""The rules of the repository that no linter checks. Each rule is a function, and a planted fault shows that it can fail."""

from __future__ import annotations

import ast
import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "deploy" / "models"
SOURCES = ("clients", "deploy", "export", "loadtest", "protos", "server", "tests")
PACKAGES = ("clients", "deploy", "export", "loadtest", "server")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")
HEADER = "SPDX-License-Identifier: Apache-2.0"
MIB = 1 << 20
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60

FOLDERS = ("chaos", "contract", "deploy", "e2e", "parity", "perf", "unit")
NEIGHBOURS = {"chaos": {"e2e"}, "deploy": {"chaos", "e2e"}, "e2e": {"chaos"}, "perf": {"e2e"}}
"""Other folders that a folder of tests may import from; shared helpers are in `tests/fakes`, or in `tests` itself."""
REPLACED = {
    "tests/contract/test_surface.py": {"_MODEL"},
    "tests/unit/engine/test_search.py": {"_finish", "_log_mass"},
    "tests/unit/export/test_generation_gain.py": {"_NEIGHBOURS"},
    "tests/unit/export/test_generation_training.py": {"_HELD", "_STATISTICS_BATCHES"},
    "tests/unit/export/test_recurrent_models.py": {"_SHUT"},
    "tests/unit/loadtest/test_gpu.py": {"_run"},
    "tests/unit/loadtest/test_gpu_served.py": {"_expected"},
}
"""Private names that tests replace: places of planted faults, and sizes that would take minutes. Read ones are ruff's (SLF001)."""

# Modules that are not in the base installation, or not in that of the server.
NOT_OF_THE_SERVER = ("torch", "onnx", "onnxscript", "attnserve_client", "attnserve_export", "sacrebleu", "locust")
NOT_OF_THE_CLIENT = (
    *("torch", "onnx", "onnxscript", "onnxruntime", "sentencepiece", "typer", "click", "rich", "matplotlib", "PIL", "sacrebleu"),
    *(
        "locust",
        "msgspec",
        "prometheus_client",
        "starlette",
        "uvicorn",
        "grpc_health",
        "grpc_reflection",
        "attnserve_server",
        "attnserve_export",
    ),
)

IMPORT = """
import importlib, importlib.abc, pkgutil, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

BLOCKED = frozenset(sys.argv[3:])
sys.path.insert(0, sys.argv[1])
sys.meta_path.insert(0, Blocker())
package = importlib.import_module(sys.argv[2])
if "--all" in BLOCKED:
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


def import_without(package: str, blocked: Iterable[str], path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Imports a package in a fresh interpreter that cannot import ``blocked``; with "--all" among them, all its modules."""
    command = [sys.executable, "-c", IMPORT, str(path), package, *blocked]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=path, timeout=100)


def python_files(root: Path, folders: Iterable[str] = SOURCES) -> list[Path]:
    """The written (not generated) Python files of a tree."""
    files = [file for folder in folders for file in (root / folder).rglob("*.py")]
    return sorted(file for file in files if not any(file.match(pattern) for pattern in GENERATED))


def header_faults(root: Path) -> list[str]:
    """Source files without an SPDX line at their head, and Python files without a module docstring."""
    others = [*root.rglob("protos/**/*.proto"), *root.glob("Makefile"), *root.glob(".ci/run")]
    faults = []
    for file in [*python_files(root), *others]:
        text, name = file.read_text(encoding="utf-8"), str(file.relative_to(root))
        if not any(HEADER in line for line in text.splitlines()[:2]):
            faults.append(f"{name}: no SPDX header")
        if file.suffix == ".py" and not ast.get_docstring(ast.parse(text)):
            faults.append(f"{name}: no module docstring")
    return faults


def size_faults(root: Path) -> list[str]:
    """Written files and functions of the packages that exceed the limits of length."""
    faults = []
    for file in python_files(root, PACKAGES):
        text, name = file.read_text(encoding="utf-8"), str(file.relative_to(root))
        if (length := len(text.splitlines())) > MAX_FILE_LINES:
            faults.append(f"{name}: {length} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    faults.append(f"{name}: {node.name} has {length} lines")
    return faults


def reaching_faults(root: Path) -> list[str]:
    """Tests that bypass a constructor, or replace private names of a module of the product."""
    faults = []
    for file in python_files(root, ["tests"]):
        name = str(file.relative_to(root))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr="__new__")):
                    faults.append(f"{name}:{node.lineno}: goes round a constructor")
                case ast.Call(func=ast.Attribute(attr="setattr") | ast.Name(id="setattr"), args=[*places, _]):
                    texts = [each.value for each in places if isinstance(each, ast.Constant) and isinstance(each.value, str)]
                    for attribute in (text.rpartition(".")[2] for text in texts):
                        if attribute.startswith("_") and attribute not in REPLACED.get(name, ()):
                            faults.append(f"{name}:{node.lineno}: replaces {attribute}")
    return faults


def folder_faults(root: Path) -> list[str]:
    """Tests that import from another folder than their own."""
    faults = []
    for file in python_files(root, ["tests"]):
        folder, name = file.relative_to(root / "tests").parts[0], str(file.relative_to(root))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests.")):
                continue
            other = str(node.module).split(".")[1]
            if (folder in FOLDERS and other in FOLDERS and other not in {folder, *NEIGHBOURS.get(folder, ())}) or (
                folder not in FOLDERS and other in FOLDERS
            ):
                faults.append(f"{name} imports {node.module}")
    return faults


def num_bytes(files: Iterable[Path]) -> int:
    """The size of files; links and files that no longer exist count as 0."""
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def version_faults(root: Path) -> list[str]:
    """Packages that state a version other than that of pyproject.toml."""
    expected = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    faults, num_stated = [], 0
    for file in sorted([*root.glob("*/attnserve*/__init__.py"), *root.glob("clients/python/attnserve*/__init__.py")]):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            match node:
                case ast.Assign(targets=[ast.Name(id="__version__")], value=ast.Constant(value=version)):
                    num_stated += 1
                    if version != expected:
                        faults.append(f"{file.relative_to(root)}: {version}, not {expected}")
    return faults if num_stated else ["no package states its version"]


def test_client_imports_from_a_base_installation() -> None:
    result = import_without("attnserve_client", NOT_OF_THE_CLIENT)
    assert result.returncode == 0, result.stderr


def test_server_imports_without_what_makes_bundles() -> None:
    result = import_without("attnserve_server", ["--all", *NOT_OF_THE_SERVER])
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("blocked", [["torch"], ["--all", "torch"]])
def test_import_of_a_blocked_module_is_seen(tmp_path: Path, blocked: list[str]) -> None:
    package = tmp_path / "planted"
    package.mkdir()
    is_deep = "--all" in blocked
    (package / "__init__.py").write_text("" if is_deep else "import torch.nn\n")
    (package / "deep.py").write_text("import torch\n")
    result = import_without("planted", blocked, tmp_path)
    assert result.returncode != 0
    assert "torch" in result.stderr
    assert import_without("planted", ["onnx"], tmp_path).returncode == 0 or not is_deep


def test_every_source_file_has_a_header_and_a_docstring() -> None:
    assert len(python_files(ROOT)) > 20
    assert header_faults(ROOT) == []


def test_missing_header_and_docstring_are_seen(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "module.py").write_text("x = 1\n")
    (tmp_path / "server" / "module_pb2.py").write_text("x = 1\n")
    assert header_faults(tmp_path) == ["server/module.py: no SPDX header", "server/module.py: no module docstring"]


def test_files_and_functions_are_short() -> None:
    assert size_faults(ROOT) == []


def test_long_file_and_long_function_are_seen(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "as_long_as_may_be.py").write_text("def f():\n" + "    x = 1\n" * 59 + "x = 1\n" * 240)
    assert size_faults(tmp_path) == []
    (tmp_path / "server" / "file.py").write_text("x = 1\n" * 301)
    (tmp_path / "server" / "function.py").write_text("class C:\n    async def f(self):\n" + "        x = 1\n" * 60)
    assert size_faults(tmp_path) == ["server/file.py: 301 lines", "server/function.py: f has 61 lines"]


def test_no_test_bypasses_a_constructor_or_replaces_private_names() -> None:
    assert reaching_faults(ROOT) == []


def test_bypassed_constructor_and_replaced_private_name_are_seen(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    text = "model = Model.__new__(Model)\npatch.setattr(loop, '_clock', 1)\npatch.setattr('a.b._c', 1)\npatch.setattr(loop, 'clock', '_x')\n"
    (tmp_path / "tests" / "test_it.py").write_text(text)
    assert [fault.split(": ")[1] for fault in reaching_faults(tmp_path)] == [
        "goes round a constructor",
        "replaces _clock",
        "replaces _c",
    ]


def test_no_folder_of_tests_imports_from_another() -> None:
    assert folder_faults(ROOT) == []


def test_import_from_another_folder_is_seen(tmp_path: Path) -> None:
    for name, text in {
        "contract/test_a.py": "from tests.e2e.serving import serve\n",
        "perf/test_b.py": "from tests.e2e.serving import serve\nfrom tests.fakes.clock import Clock\n",
        "fakes/c.py": "from tests.unit.engine.test_front import thing\n",
    }.items():
        (tmp_path / "tests" / name).parent.mkdir(parents=True)
        (tmp_path / "tests" / name).write_text(text)
    assert folder_faults(tmp_path) == [
        "tests/contract/test_a.py imports tests.e2e.serving",
        "tests/fakes/c.py imports tests.unit.engine.test_front",
    ]


def test_bundles_are_small() -> None:
    assert num_bytes(MODELS.rglob("*")) <= 32 * MIB


def test_tracked_tree_is_small() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert num_bytes(ROOT / name for name in listing.split("\0") if name) <= 40 * MIB


def test_large_file_is_seen(tmp_path: Path) -> None:
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(32 * MIB + 1)  # sparse
    assert num_bytes(tmp_path.rglob("*")) > 32 * MIB


def test_version_is_the_same_everywhere() -> None:
    assert version_faults(ROOT) == []
    installed = importlib.metadata.version("attnserve")
    assert installed == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def test_other_version_is_seen(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    assert version_faults(tmp_path) == ["no package states its version"]
    (tmp_path / "server" / "attnserve_server").mkdir(parents=True)
    (tmp_path / "server" / "attnserve_server" / "__init__.py").write_text('__version__ = "1.2.4"\n')
    assert version_faults(tmp_path) == ["server/attnserve_server/__init__.py: 1.2.4, not 1.2.3"]
