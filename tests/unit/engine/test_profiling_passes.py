# SPDX-License-Identifier: Apache-2.0
"""`attnserve profile` of single-pass models: the graph that is chosen, its size, and what cannot be profiled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnserve_client.cli.app import build_app
from attnserve_server.bundle.loader import default_models, find_bundles, load_bundle
from attnserve_server.execution.session import NodeTimes
from attnserve_server.profiling.measure import OTHER
from attnserve_server.profiling.passes import PassWorkload, feeds_of, profile_pass, with_parts
from tests.fakes import passes

BUNDLES = {path.parent.name: path for path in find_bundles(default_models())}
PARTS = {
    "dnl-camvid": {"trunk", "pairwise", "unary", "decoder"},
    "cbam-cifar10": {"stem", "stage 1", "stage 2", "stage 3", "channel attention", "spatial attention", "output"},
}
SHIPPED = sorted(PARTS.keys() & BUNDLES.keys())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    passes.write_bundle(folder)
    return folder


@pytest.mark.parametrize("model", SHIPPED)
@pytest.mark.parametrize("wants_attention", [False, True])
def test_the_parts_of_a_pass_are_those_of_the_paper(model: str, wants_attention: bool) -> None:
    found = profile_pass(load_bundle(BUNDLES[model], variant="fp32"), PassWorkload(wants_attention=wants_attention), 2)
    assert {share.name for share in found.parts} - {OTHER} == PARTS[model]
    assert sum(share.num_nodes for share in found.parts) == sum(share.num_nodes for share in found.operators)
    unknown = sum(share.seconds for share in found.parts if share.name == OTHER)
    assert unknown < 0.01 * found.node_seconds


def test_a_node_of_onnx_runtime_has_the_part_of_the_node_before_it() -> None:
    names = ("ReorderInput", "trunk/Conv_1", "ReorderOutput", "fused unary/MatMul_2", "relu_nchwc")
    found = with_parts(NodeTimes(name, "Conv", [1.0]) for name in names)
    assert [each.name for each in found] == [
        f"{OTHER}/ReorderInput",
        "trunk/Conv_1",
        "trunk/ReorderOutput",
        "fused unary/MatMul_2",
        "fused unary/relu_nchwc",
    ]


def test_the_wish_for_attention_chooses_the_graph(models: Path) -> None:
    bundle = load_bundle(models / passes.MODEL_ID / "1")
    graphs = [profile_pass(bundle, PassWorkload(2, wants_attention=wants), 1).graph for wants in (False, True)]
    assert graphs == [passes.PLAIN, passes.ATTENTION]


def test_the_picture_fills_an_input_of_the_asked_size(models: Path) -> None:
    bundle = load_bundle(models / passes.MODEL_ID / "1")
    graph = bundle.variant.passes[1].graph
    feeds = feeds_of(bundle, graph, PassWorkload(3, (24, 12)))
    assert feeds["image"].shape == (3, 12, 24, 3)
    assert feeds["size"].tolist() == [[12, 24]] * 3
    assert feeds["query"].tolist() == [list(range(passes.QUERIES))] * 3
    assert feeds_of(bundle, graph, PassWorkload())["image"].shape == (1, 8, 16, 3)


def test_what_a_graph_does_not_take_is_refused(tmp_path: Path) -> None:
    manifest = passes.pass_manifest()
    manifest["single_pass"]["picture"]["sizes"] = [{"width": 16, "height": 8}]
    for each in manifest["variants"][0]["passes"]:
        for tensor in each["graph"]["inputs"]:
            tensor["axes"] = [{"height": "8", "width": "16"}.get(axis, axis) for axis in tensor["axes"]]
    bundle = load_bundle(passes.write_bundle(tmp_path, manifest))
    with pytest.raises(RuntimeError, match=r"takes images of 16x8, not 8x8"):
        profile_pass(bundle, PassWorkload(size=(8, 8)), 1)
    graph = bundle.variant.passes[0].graph
    graph.inputs[0].name = "clip"
    with pytest.raises(RuntimeError, match="the input clip is unknown"):
        feeds_of(bundle, graph, PassWorkload())
    bundle.variant.passes.pop()
    with pytest.raises(RuntimeError, match="no graph of small-passes gives attention"):
        profile_pass(bundle, PassWorkload(wants_attention=True), 1)


def test_the_command_shows_a_pass(models: Path) -> None:
    arguments = ["profile", passes.MODEL_ID, "--models", str(models), "--runs", "2", "--rows", "2", "--size", "24x8"]
    shown = CliRunner().invoke(build_app(), arguments)
    assert shown.exit_code == 0, shown.output
    assert "2 images of 24x8" in shown.output
    printed = json.loads(CliRunner().invoke(build_app(), [*arguments[:6], "--attention", "--json"]).output)
    assert (printed["graph"], printed["variant"]) == (passes.ATTENTION, "fp32")


@pytest.mark.parametrize("size", ["480", "480x", "ax4", "0x8", "-4x8"])
def test_a_size_is_a_width_and_a_height(models: Path, size: str) -> None:
    result = CliRunner().invoke(build_app(), ["profile", passes.MODEL_ID, "--models", str(models), f"--size={size}"])
    assert result.exit_code == 2
    assert "like 480x360" in " ".join(result.output.split())
