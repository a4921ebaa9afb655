# SPDX-License-Identifier: Apache-2.0
"""The comparison of two trees: the order of the blocks, the ratios, valid trees, and the arguments that the command refuses."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from attnserve_client.errors import ToolError
from attnserve_loadtest.bench import __main__ as command
from attnserve_loadtest.bench import against, against_report, trees
from attnserve_loadtest.bench.against import POINTS, Bars, Comparison, Cost, order
from attnserve_loadtest.bench.processor import processor_seconds
from attnserve_loadtest.bench.trees import Tree, checkout
from attnserve_server.bundle.loader import load_bundle
from tests.driving import DEFAULT_BUNDLE

ROOT = Path(__file__).parents[3]
MAIN = Path("server", "attnserve_server", "__main__.py")
BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
"""Takes 0.3 s of processor time."""


def comparison(ratios: list[float], wall: float = 1.0) -> Comparison:
    return Comparison(POINTS[0], [(Cost(2e-3, 1e-3), Cost(2e-3 * ratio, 1e-3 * wall)) for ratio in ratios])


def git(folder: Path, *arguments: str) -> str:
    identity = "-c", "user.name=test", "-c", "user.email=test@example.org"
    return subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def make_tree(folder: Path) -> Path:
    (folder / MAIN).parent.mkdir(parents=True)
    (folder / MAIN).write_text("")
    (folder / MAIN).with_name("__init__.py").write_text("")
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two commits: one without a server, tagged ``empty``, and one with it."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "empty")
    git(folder, "tag", "empty")
    make_tree(folder)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "server")
    return folder


def test_blocks_are_measured_in_the_order_abba() -> None:
    assert order(4) == [0, 1, 1, 0, 0, 1, 1, 0]


def test_a_comparison_has_the_median_and_the_upper_quartile_of_the_pairs_ratios() -> None:
    found = comparison([1.08, 0.96, 1.0, 1.04, 1.02], wall=1.5)
    assert found.median == pytest.approx(1.02)
    assert found.upper_quartile == pytest.approx(1.04)
    assert comparison([1.0, 1.1]).upper_quartile == pytest.approx(1.075)
    assert comparison([1.1]).upper_quartile == pytest.approx(1.1)
    assert found.wall_ratio == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("ratios", "is_within"),
    [
        ([1.0, 1.0, 1.0, 1.0, 1.0], True),
        ([0.5, 0.9, 1.029, 1.059, 1.2], True),
        ([1.031, 1.031, 1.031, 1.031, 1.031], False),  # only the median
        ([1.0, 1.0, 1.0, 1.061, 1.061], False),  # only the upper quartile
    ],
)
def test_neither_the_median_nor_the_upper_quartile_may_exceed_its_bar(ratios: list[float], is_within: bool) -> None:
    assert comparison(ratios).is_within(Bars()) is is_within


def test_the_report_names_the_trees_and_says_which_bar_is_exceeded(tmp_path: Path) -> None:
    both = Tree(Path("/secret/old"), "aaa"), Tree(Path("/secret/new"), "bbb")
    found = [comparison([1.0, 1.0]), comparison([1.2, 1.2])]
    against_report.save_json(tmp_path / "against.json", found, both, Bars(), 200)
    text = (tmp_path / "against.json").read_text()
    values = json.loads(text)
    assert (values["old"], values["new"], values["bars"]) == ("aaa", "bbb", {"median": 1.03, "quartile": 1.06})
    assert [point["is_within"] for point in values["points"]] == [True, False]
    assert values["points"][0]["pairs"][0]["old"] == {"processor": 2e-3, "wall": 1e-3}
    assert values["machine"]["cores"] == os.cpu_count()
    assert "secret" not in text, "a path of the machine is in the report"
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(against_report.table(found, both, Bars()))
    rows = [line for line in console.export_text().splitlines() if "unary" in line]
    assert ["within" in row for row in rows] == [True, False]
    assert ["exceeded" in row for row in rows] == [False, True]
    assert "1.200 <= 1.03" in rows[1] and "2.400" in rows[1]


def test_a_folder_is_a_tree_named_by_its_commit_or_by_itself(tmp_path: Path, repository: Path) -> None:
    commit = git(repository, "rev-parse", "--short", "HEAD")
    with checkout(str(repository), tmp_path) as tree:
        assert tree == Tree(repository, commit)
    (repository / MAIN).write_text("changed")
    assert Tree.of(repository).name == f"{commit}-dirty"
    assert Tree.of(make_tree(tmp_path / "copy")).name == "copy"


def test_a_commit_is_checked_out_and_removed_again(repository: Path) -> None:
    def use(source: str) -> None:
        with checkout(source, repository) as tree:
            assert (tree.folder / MAIN).is_file()
            assert len(git(repository, "worktree", "list").splitlines()) == 2
            folders.append(tree.folder)
            raise KeyboardInterrupt

    folders: list[Path] = []
    for source in (git(repository, "rev-parse", "HEAD"), "HEAD"):
        with pytest.raises(KeyboardInterrupt):
            use(source)
    assert len(folders) == 2
    assert not any(folder.exists() for folder in folders)
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("0123456789", "neither a folder nor a commit"),
        ("--help", "neither a folder nor a commit"),
        ("empty", "not a checkout of attnserve"),
    ],
)
def test_what_is_no_tree_of_this_project_is_refused(repository: Path, source: str, message: str) -> None:
    with pytest.raises(ToolError, match=message), checkout(source, repository):
        pass
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_folder_without_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="not a checkout of attnserve: it has no server"), checkout(str(tmp_path), ROOT):
        pass


def test_a_worktree_that_cannot_be_made_is_said(repository: Path) -> None:
    (repository / ".git" / "worktrees").write_text("in the way")
    with pytest.raises(ToolError, match="git worktree failed"), checkout("HEAD", repository):
        pass


def test_without_git_a_commit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="needs git"), checkout("HEAD", tmp_path):
        pass


def test_a_process_of_a_tree_imports_that_trees_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any PYTHONPATH, settings and working directory."""
    tree, other = Tree.of(make_tree(tmp_path / "tree")), make_tree(tmp_path / "other") / "server"
    monkeypatch.setenv("PYTHONPATH", str(other))
    monkeypatch.setenv("ATTNSERVE_ENGINE_SLOTS", "7")
    (tree.folder / MAIN).write_text("import os, attnserve_server as s; print(s.__file__, 'ATTNSERVE_ENGINE_SLOTS' in os.environ)")
    program = [sys.executable, "-m", "attnserve_server"]
    done = subprocess.run(program, env=tree.environment(), cwd=other, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tree.folder / "server" / "attnserve_server" / "__init__.py"), "False"]


def test_processor_time_is_that_of_all_processes_also_of_those_that_ended() -> None:
    """One process that has ended, and one below another that still runs."""
    inner = f"import sys\n{BURN}print(flush=True)\nsys.stdin.read()"
    program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\nsubprocess.run([sys.executable, '-c', {inner!r}])"
    before = processor_seconds(os.getpid())
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert processor_seconds(process.pid) >= 0.56
        assert processor_seconds(os.getpid()) - before >= 0.56
        process.communicate()


def test_processor_time_of_a_process_that_is_gone_is_refused() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with pytest.raises(ToolError, match="no processor time"):
        processor_seconds(process.pid)


def test_both_trees_serve_a_bundle_that_names_no_golden_answers() -> None:
    """A manifest of before, but for figures: so a server of an older tree can read it."""
    with against.alone(DEFAULT_BUNDLE) as models:
        bundle = load_bundle(models / DEFAULT_BUNDLE.parent.name / DEFAULT_BUNDLE.name)
    original = load_bundle(DEFAULT_BUNDLE).manifest
    assert original.golden_file
    original.files.remove(next(file for file in original.files if file.name == original.golden_file))
    original.ClearField("golden_file")
    assert bundle.manifest == original


def test_a_tree_without_blocks_gets_a_model_without_them(tmp_path: Path) -> None:
    original = load_bundle(DEFAULT_BUNDLE)
    assert any(step.block_rows for step in original.variant.steps)
    with against.alone(DEFAULT_BUNDLE, Tree(tmp_path, "old")) as models:
        bundle = load_bundle(models / DEFAULT_BUNDLE.parent.name / DEFAULT_BUNDLE.name)
    assert (bundle.manifest.format_version, list(bundle.manifest.requires)) == (1, [])
    expected = [step.graph.file for step in original.variant.steps if not step.block_rows]
    assert [step.graph.file for step in bundle.variant.steps] == expected
    with against.alone(DEFAULT_BUNDLE, Tree.of(ROOT)) as models:
        bundle = load_bundle(models / DEFAULT_BUNDLE.parent.name / DEFAULT_BUNDLE.name)
    assert bundle.variant == original.variant


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of the bench in this process."""
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as found:
        command.main()
    assert isinstance(found.value.code, int)
    return found.value.code


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--against", "{tmp}"), 1, "not a checkout"),
        (("--against", "no-such-commit"), 1, "neither a folder nor a commit"),
        (("--against", "{root}", "--part", "wire"), 2, "--part"),
        (("--against", "{root}", "--point", "sideways"), 2, "no point has 'sideways'"),
        (("--against", "{root}", "--rounds", "0"), 2, "--rounds"),
        (("--against", "{root}", "--data", "{tmp}"), 1, "multi30k"),
        (("--against", "{root}", "--rounds", "1", "--model", "{tmp}/none/1", "--out", "{tmp}"), 1, "before it was ready"),
    ],
)
def test_the_command_refuses(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [argument.format(tmp=tmp_path, root=ROOT) for argument in arguments]
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, *filled) == code
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "against.json").exists()


@pytest.mark.parametrize(("bar", "code"), [("1.03", 1), ("1.2", 0)])
def test_the_exit_code_is_1_where_a_bar_is_exceeded(
    bar: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """First the median exceeds its bar, then none does; the tree is a commit, and the measurements are fake."""

    def measure_pair(pair: tuple[Tree, Tree], bundle: Path, texts: list[str], points: list[Any], note: Any) -> list[against.Pair]:
        assert [tree.folder for tree in pair] == [Path("/"), ROOT] and len(texts) == 12
        return [(Cost(1e-3, 1e-3), Cost(1.1e-3, 1e-3))] * len(points)

    monkeypatch.setattr(against, "measure_pair", measure_pair)
    monkeypatch.setattr(trees, "checkout", lambda source, repository: contextlib.nullcontext(Tree(Path("/"), source)))
    arguments = ("--against", "abc", "--limit", "12", "--median-bar", bar, "--quartile-bar", "1.15", "--out", str(tmp_path))
    assert run(monkeypatch, *arguments) == code
    values = json.loads((tmp_path / "against.json").read_text())
    assert values["old"] == "abc"
    assert [point["name"] for point in values["points"]] == ["unary", "stream", "offline greedy", "beam 4"]
    assert [len(point["pairs"]) for point in values["points"]] == [9] * 4
    assert "pair 9, beam 4: 1.100" in capsys.readouterr().out
