# SPDX-License-Identifier: Apache-2.0
"""The sweep of a segmentation's attended cells: a bundle in several sizes behind a real server, and the files that it writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from attnserve_loadtest import hot_path_maps
from attnserve_server.bundle.loader import find_bundles, load_bundle
from tests.driving import DEFAULT_BUNDLE
from tests.fakes import passes

SIZES = ((32, 16), (64, 32))


def test_a_bundle_is_swept_over_its_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_path_maps, "SIZES", SIZES)
    monkeypatch.setattr(hot_path_maps, "NUM_QUERIES", passes.QUERIES)
    bundle = passes.write_bundle(tmp_path / "models")
    points = hot_path_maps.run(bundle, tmp_path / "results", is_quick=True)
    assert [(each.maps, each.cells) for each in points] == [("none", 32), ("none", 128), ("all", 32), ("all", 128)]
    assert all(0 < each.p50_ms <= each.p95_ms and each.run_ms > 0 and each.loaded_p50_ms > 0 for each in points)
    saved = json.loads((tmp_path / "results" / "hot-path-maps.json").read_text())
    assert [each["width"] for each in saved] == [32, 64, 32, 64]
    with (tmp_path / "results" / "hot-path-maps.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    with Image.open(tmp_path / "results" / "hot-path-maps.png") as picture:
        assert picture.width > 500


def test_a_copy_has_one_size_and_its_own_id(tmp_path: Path) -> None:
    copied = hot_path_maps.copy_with_size(passes.write_bundle(tmp_path / "models"), tmp_path / "copies", (64, 32))
    manifest = load_bundle(copied).manifest
    assert manifest.model_id == copied.parent.name == f"{passes.MODEL_ID}-64x32"
    assert [(each.width, each.height) for each in manifest.single_pass.picture.sizes] == [(64, 32)]


def test_the_bundle_is_one_that_takes_several_sizes(tmp_path: Path) -> None:
    one_size = passes.pass_manifest(model_id="one-size")
    one_size["single_pass"]["picture"]["sizes"] = [{"width": 16, "height": 8}]
    passes.write_bundle(tmp_path, one_size)
    assert hot_path_maps.find_segmentation([DEFAULT_BUNDLE, *find_bundles(tmp_path)]) is None
    several = passes.write_bundle(tmp_path)
    assert hot_path_maps.find_segmentation([DEFAULT_BUNDLE, *find_bundles(tmp_path)]) == several
