# SPDX-License-Identifier: Apache-2.0
"""The last release's client with this server, and this client with the last release's server (``tests/stable.py`` says which it is).

Each client runs in a process that imports one tree's packages, as installed from that tree's wheel, and uses public names only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attnserve_loadtest.bench.trees import Tree, checkout
from tests.e2e.captioning import MODEL
from tests.e2e.serving import SENTENCES, Server, serve
from tests.photos import PHOTOS
from tests.stable import ROOT, reference

pytestmark = pytest.mark.long
CLIENT = """
import json, pathlib, sys
import attnserve_client
from attnserve_client import AttnserveError, Client, DecodeOptions, InvalidRequest, ModelNotFound, Translation, TranslationDelta

address, text, photo = sys.argv[1:]
answers = {"module": attnserve_client.__file__}
with Client(address, timeout=60) as client:
    answers["translation"] = client.translate(text).text
    many = client.translate(text, options=DecodeOptions(beam_size=4, num_hypotheses=2))
    answers["hypotheses"] = [each.text for each in many.hypotheses]
    *deltas, last = list(client.translate_stream(text))
    assert deltas and all(isinstance(each, TranslationDelta) for each in deltas) and isinstance(last, Translation)
    answers["stream"] = ["".join(each.text for each in deltas), last.text]
    answers["caption"] = client.caption(pathlib.Path(photo).read_bytes()).text
    answers["models"] = sorted(each.id for each in client.list_models())
    try:
        client.translate(text, beam_size=10_000)
    except InvalidRequest as error:
        answers["invalid"] = [error.code, error.reason, error.field]
    try:
        client.translate(text, model="no-model")
    except ModelNotFound as error:
        answers["missing"] = [error.code, error.reason, error.field]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def last() -> Iterator[Tree]:
    with checkout(reference(), ROOT) as tree:
        yield tree


@pytest.fixture(scope="module")
def trees(last: Tree) -> dict[str, Tree]:
    return {"last": last, "this": Tree.of(ROOT)}


@pytest.fixture(scope="module")
def servers(trees: dict[str, Tree], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """A server of each tree, on that tree's models."""
    with (
        serve_tree(trees["last"], tmp_path_factory.mktemp("last")) as last,
        serve_tree(trees["this"], tmp_path_factory.mktemp("this")) as this,
    ):
        yield {"last": last, "this": this}


def serve_tree(tree: Tree, folder: Path) -> Any:
    models = tree.folder / "deploy" / "models"
    return serve(folder, "--workers", "1", "--models", str(models), environment=tree.environment())


def answers(tree: Tree, server: Server) -> dict[str, Any]:
    """What a tree's client receives from a server."""
    command = [sys.executable, "-c", CLIENT, server.target, SENTENCES[0], str(PHOTOS[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=tree.environment())
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert Path(found.pop("module")).is_relative_to(tree.folder), "the client of another tree ran"
    return found


def command(tree: Tree, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a tree's command line."""
    line = [sys.executable, "-m", "attnserve_client.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=100, check=False, env=tree.environment())


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("client", "server"), [("last", "this"), ("this", "last")])
def test_client_and_server_of_two_releases(trees: dict[str, Tree], servers: dict[str, Server], client: str, server: str) -> None:
    process = Path(f"/proc/{servers[server].process.pid}/environ").read_bytes().decode()
    assert str(trees[server].folder / "server") in process
    found, expected = answers(trees[client], servers[server]), answers(trees[server], servers[server])
    assert found == expected
    assert found["translation"]
    assert found["stream"] == [found["translation"]] * 2
    assert len(found["hypotheses"]) == 2
    assert found["caption"]
    assert MODEL in found["models"]
    assert found["invalid"] == ["INVALID_ARGUMENT", "INVALID_REQUEST", "options.beam_size"]
    assert found["missing"] == ["NOT_FOUND", "MODEL_NOT_FOUND", "model"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("client", "server"), [("last", "this"), ("this", "last")])
def test_command_and_server_of_two_releases(trees: dict[str, Tree], servers: dict[str, Server], client: str, server: str) -> None:
    address = servers[server].target
    expected = answers(trees[server], servers[server])
    for arguments, wanted in (
        (["translate", SENTENCES[0]], expected["translation"]),
        (["translate", SENTENCES[0], "--stream"], expected["translation"]),
        (["caption", str(PHOTOS[0])], expected["caption"]),
    ):
        done = command(trees[client], *arguments, "--address", address)
        assert (done.returncode, done.stdout.strip()) == (0, wanted), done.stderr
    done = command(trees[client], "translate", SENTENCES[0], "--model", "no-model", "--address", address)
    assert done.returncode == 1
    assert "no-model" in done.stderr
    assert "Traceback" not in done.stderr
