# SPDX-License-Identifier: Apache-2.0
"""`attnserve profile` over the bundles that the project ships and that decode step by step: every node is counted once, and has its part of the paper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from attnserve_client.cli.app import build_app
from attnserve_server.bundle.loader import default_models, find_bundles, load_bundle
from attnserve_server.profiling.measure import OTHER, Workload, profile_encode, profile_step

BUNDLES = {
    path.parent.name: path for path in find_bundles(default_models()) if not load_bundle(path).manifest.HasField("single_pass")
}
PARTS = {
    "transformer-en-de": {"embedding", "self-attention", "cross-attention", "feed-forward", "output"},
    "rnnsearch-en-de": {"embedding", "alignment", "recurrence", "deep output", "output"},
    "seq2seq-en-de": {"embedding", "decoder", "output"},
    "show-attend-tell-flickr8k": {"embedding", "alignment", "recurrence", "deep output", "output"},
}
RUNS = 3


@pytest.mark.parametrize("model", BUNDLES)
@pytest.mark.parametrize("variant", ["int8", "fp32"])
def test_parts_of_a_step(model: str, variant: str) -> None:
    found = profile_step(load_bundle(BUNDLES[model], variant=variant), Workload(rows=8, beam_size=4), RUNS)
    assert {share.name for share in found.parts} - {OTHER} == PARTS[model]
    assert sum(share.num_nodes for share in found.parts) == sum(share.num_nodes for share in found.operators)
    assert sum(share.seconds for share in found.operators) == pytest.approx(found.node_seconds)
    unknown = sum(share.seconds for share in found.parts if share.name == OTHER)
    assert unknown < 0.1 * found.node_seconds, "ONNX Runtime's own nodes have names of their own"
    assert found.graph.startswith("step_")
    assert found.seconds > 0


def test_workload_chooses_the_graph() -> None:
    bundle = load_bundle(BUNDLES["transformer-en-de"], variant="fp32")
    graphs = [profile_step(bundle, Workload(4, beam, wants_attention=wanted), 1).graph for beam, wanted in ((1, False), (4, True))]
    assert graphs == ["step_1.onnx", "step_5_attention.onnx"]
    with pytest.raises(RuntimeError, match="no step graph"):
        profile_step(bundle, Workload(20, 20), 1)


@pytest.mark.parametrize("model", BUNDLES)
def test_encode(model: str) -> None:
    found = profile_encode(load_bundle(BUNDLES[model]), 4, 12, RUNS)
    assert found.graph.startswith("encode")
    assert found.parts[0].name in ("self-attention", "feed-forward", "encoder")


def test_command(tmp_path: Path) -> None:
    picture = tmp_path / "profile.png"
    arguments = ["profile", "transformer-en-de", "--rows", "2", "--runs", "2", "--plot", str(picture)]
    shown = CliRunner().invoke(build_app(), arguments)
    assert shown.exit_code == 0, shown.output
    assert "cross-attention" in shown.output
    assert "ms per run" in shown.output
    with Image.open(picture) as opened:
        assert opened.width > 500
    printed = CliRunner().invoke(build_app(), [*arguments[:2], "--encode", "--runs", "2", "--rows", "1", "--json"])
    assert json.loads(printed.output)["model"] == "transformer-en-de"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nonesuch"], "no model 'nonesuch'"),
        (["transformer-en-de", "--variant", "fp8"], "no variant 'fp8'"),
        (["transformer-en-de", "--source-tokens", "129"], "at most 128"),
        (["transformer-en-de", "--position", "128"], "at most 127"),
        (["transformer-en-de", "--rows", "2", "--beam-size", "5"], "must be at least the beam size, 5"),
        (["transformer-en-de", "--plot", "/nonesuch/x.png"], "cannot draw into"),
        (["transformer-en-de", "--rows", "1", "--runs", "1", "--plot", "/tmp/x.tune"], "cannot draw into"),
    ],
)
def test_what_cannot_be_profiled(arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(build_app(), ["profile", *arguments])
    assert result.exit_code != 0
    assert problem in " ".join(result.output.split())
